import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from hfx.bench.workload import TokenPool, trace_prompts
from hfx.traces import Row, read_trace, tick_s

TRACES = Path(os.environ.get("HFX_DATA", "../shared/data")) / "traces"


def written(tmp_path, text, name="trace"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_azures_table_is_read_with_its_clock_from_0(tmp_path):
    path = written(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 23:59:59.5000000,374,44\n"
        "2023-11-17 00:00:01.7500000,396,109\n",
    )

    assert read_trace(path) == [Row(0.0, 374, 44), Row(2.25, 396, 109)]


def test_mooncakes_lines_are_read_with_their_blocks(tmp_path):
    path = written(
        tmp_path,
        '{"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 4]}\n\n'
        '{"timestamp": 6000, "input_length": 100, "output_length": 6, "hash_ids": [0]}\n',
    )

    assert read_trace(path) == [Row(0.0, 600, 5, (0, 4)), Row(3.0, 100, 6, (0,))]


@pytest.mark.parametrize("compress", [False, True])
def test_our_table_is_read_plain_or_compressed_and_sorted(tmp_path, compress):
    text = b"arrival_s,input_tokens,output_tokens,hash_ids\n2.5,30,4,\n1,10,2,7 8\n"
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(text) if compress else text)

    assert read_trace(path) == [Row(0.0, 10, 2, (7, 8)), Row(1.5, 30, 4)]


@pytest.mark.parametrize(
    "text",
    [
        # Azure 2024: microseconds and a zone, sometimes a whole second
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:02.009930+00:00,2399,6\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,2162,5,2167,Conversation log\n6,GPT-4,417,0,417,API log\n"
        "7,GPT-4,2399,6,2405,Conversation log\n",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type\n5.0,a1,1.5,ChatGPT,2162,5,2167,Conversation log\n"
        "7.0,,2.5,GPT-4,2399,6,2405,API log\n",
        "request_id,timestamp,input_tokens,output_tokens\n0,0.5,2162,5\n1,2.5,2399,6\n",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,2162,5\n2.0,2399,6\n",
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,"
        "token_size\n0,2,0,0.0,1,2162,5\n1,2,0,2.0,1,2399,6\n",
    ],
    ids=["azure2024", "burstgpt", "burstgpt2", "servegen", "vidur", "splitwise"],
)
def test_a_publishers_own_table_is_read_as_it_is(tmp_path, text):
    assert read_trace(written(tmp_path, text)) == [Row(0.0, 2162, 5), Row(2.0, 2399, 6)]


def test_sharegpts_lengths_are_read_without_a_clock(tmp_path):
    path = written(
        tmp_path, "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n74,918,992,0.1\n"
    )

    assert read_trace(path) == [Row(None, 74, 918)]


def test_a_clock_that_was_rounded_to_seconds_is_recognised():
    rounded = [Row(3.0 * (n // 10), 5, 5) for n in range(400)]
    exact = [Row(0.37 * n, 5, 5) for n in range(400)]

    assert tick_s(rounded) == 3.0
    assert tick_s(exact) == 0.0
    assert tick_s(rounded[:100]) == 0.0  # ten different times may lie on a grid by chance
    assert tick_s([Row(None, 5, 5)] * 40) == 0.0


def test_lengths_alone_are_a_trace_without_a_clock(tmp_path):
    path = written(tmp_path, "input_tokens,output_tokens\n30,4\n10,2\n")

    assert read_trace(path) == [Row(None, 30, 4), Row(None, 10, 2)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: a trace is"),
        ("arrival_s,input_tokens,output_tokens\n", "header but no rows"),
        ("a,b\n1,2\n", "line 1: columns are 'a,b': a trace is"),
        ("input_tokens,output_tokens\n5,6\n5,0\n", "line 3: output_tokens is '0'.*mend or drop"),
        ("input_tokens,output_tokens\n5\n", "line 2: output_tokens is None"),
        ("arrival_s,input_tokens,output_tokens\nsoon,5,6\n", "line 2: arrival_s is 'soon'"),
        ("arrival_s,input_tokens,output_tokens\ninf,5,6\n", "line 2: arrival_s is 'inf'"),
        (
            "arrival_s,input_tokens,output_tokens,hash_ids\n0,5,6,x\n",
            "line 2: hash_ids must be whole numbers",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,5,6\n",
            "line 2: TIMESTAMP is 'yesterday': it must look like",
        ),
        ('{"timestamp": 0, "input_length": 5, "output_length": 6}\n{"time', "line 2: no JSON"),
        ('{"timestamp": 0, "input_length": "x", "output_length": 6}', "line 1: input_length is"),
        ('{"timestamp": 0, "output_length": 6}', "line 1: input_length is None"),
        (
            '{"timestamp": 0, "input_length": 5, "output_length": 6, "hash_ids": 3}',
            "line 1: hash_ids is 3",
        ),
    ],
)
def test_a_broken_trace_is_refused_with_its_line_and_the_cure(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_trace(written(tmp_path, text))


def test_a_cut_off_archive_is_told(tmp_path):
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(b"input_tokens,output_tokens\n5,6\n")[:-9])

    with pytest.raises(ValueError, match=r"broken \.gz file.*fetch it again"):
        read_trace(path)


def test_a_cut_row_keeps_the_blocks_that_are_left():
    row = Row(1.0, 1500, 90, (1, 2, 3))

    assert row.cut(600, 50) == Row(1.0, 600, 50, (1, 2))
    assert row.cut(None, None) == row


def test_prompts_share_as_many_blocks_as_their_rows_and_no_more():
    rows = [Row(None, 1024, 1, (1, 2)), Row(None, 1100, 1, (1, 2, 3)), Row(None, 1024, 1, (4, 2))]

    prompts = trace_prompts(
        np.random.default_rng(0), rows, TokenPool(tuple(range(999))), as_text=False
    )
    first, second, third = (prompt.content for prompt in prompts)

    assert [len(content) for content in (first, second, third)] == [1024, 1100, 1024]
    assert first == second[:1024]
    assert first[:512] != third[:512] and first[512:] == third[512:]


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"no traces at {TRACES} (HFX_DATA)")
@pytest.mark.parametrize(
    ("name", "rows", "mean_input"),
    [("azure2023_code", 8819, 2048), ("mooncake_conversation", 12031, 12035)],
)
def test_published_traces_have_the_figures_they_are_known_by(name, rows, mean_input):
    trace = read_trace(TRACES / f"{name}.csv.gz")

    assert len(trace) == rows
    assert np.mean([row.input_tokens for row in trace]) == pytest.approx(mean_input, abs=1)
