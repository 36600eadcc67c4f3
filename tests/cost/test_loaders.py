"""Publishers' tables: columns by either name, units, and what each row becomes."""

import gzip
from pathlib import Path

import pytest

from hfx.cost import Mix
from hfx.cost.loaders import aiconfigurator, llmservingsim, splitwise, vidur
from hfx.cost.loaders.compose import Attention, Curve, steps, together


def written(path: Path, text: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_llmservingsim_sums_a_step_from_its_parts(tmp_path: Path) -> None:
    layers = (*llmservingsim.PER_LAYER, *llmservingsim.ONCE)
    dense = "".join(f"{name},{t},{t}\n" for name in layers for t in (1, 10))
    heads = "".join(f"{name},{s},{s * 100}\n" for name in ("lm_head", "sampler") for s in (1, 4))
    attention = written(
        tmp_path / "attention.csv.gz",
        "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n0,0,2,16,50\n4,8,1,16,70\n99,0,0,0,9\n",
    )

    found = llmservingsim.load(
        attention,
        written(tmp_path / "dense.csv", f"layer,tokens,time_us\n{dense}"),
        written(tmp_path / "perseq.csv", f"layer,sequences,time_us\n{heads}"),
        layers=2,
    )

    micros = {mix: seconds * 1e6 for mix, seconds in found}
    per_row = 2 * 8 + 2  # two layers of eight operations, embedding and last norm
    assert micros[Mix.of([(1, 15)] * 2)] == pytest.approx(2 * per_row + 2 * 50 + 2 * 200)
    assert micros[Mix.of([(1, 15), (4, 8)])] == pytest.approx(5 * per_row + 2 * 70 + 2 * 200)
    assert len(micros) == 2  # 99 rows lie beyond the dense table


def test_a_missing_operation_is_named(tmp_path: Path) -> None:
    dense = written(tmp_path / "d.csv", "layer,tokens,time_us\nqkv_proj,1,1\n")

    with pytest.raises(ValueError, match=r"d\.csv has no rows of o_proj"):
        llmservingsim.load(dense, dense, dense, layers=1)


def test_aiconfigurator_in_our_columns_and_in_the_publishers(tmp_path: Path) -> None:
    ours = written(tmp_path / "ours.csv", "m,n,k,latency_ms\n1,2,3,0.5\n")
    theirs = written(
        tmp_path / "gemm_perf.txt",
        "framework,version,device,op_name,kernel_source,gemm_dtype,m,n,k,latency\n"
        "VLLM,1,H100,gemm,torch,bfloat16,1,2,3,0.5\nVLLM,1,H100,gemm,torch,fp8,1,2,3,0.2\n",
    )
    attention = written(
        tmp_path / "attention.csv",
        "num_heads,num_key_value_heads,batch_size,isl,step,latency\n"
        "32,8,2,64,0,1\n32,8,3,1,127,2\n16,4,1,1,7,3\n",
    )

    assert aiconfigurator.gemms(ours) == aiconfigurator.gemms(theirs) == [(1, 2, 3, 5e-4)]
    assert aiconfigurator.attention(attention, query_heads=32, kv_heads=8) == [
        Attention(((64, 0), (64, 0)), 1e-3),
        Attention(((1, 127),) * 3, 2e-3),
    ]
    with pytest.raises(ValueError, match="no rows of 64 query and 8"):
        aiconfigurator.attention(attention, query_heads=64, kv_heads=8)


@pytest.mark.parametrize("name", ["{}_ms", "time_stats.{}.median"])
def test_vidur_in_our_columns_and_in_the_publishers(tmp_path: Path, name: str) -> None:
    operations = [name.format(operation) for operation in (*vidur.PER_LAYER, "emb")]
    dense = written(
        tmp_path / "dense.csv",
        f"num_tokens,{','.join(operations)}\n" + "".join(f"{t}{',1' * 10}\n" for t in (1, 8)),
    )
    columns = [name.format(o) for o in ("attn_output_reshape", "attn_prefill", "attn_decode")]
    attention = written(
        tmp_path / "attention.csv",
        "batch_size,prefill_chunk_size,kv_cache_size,is_prefill,n_q_head,n_kv_head,"
        f"num_tensor_parallel_workers,{','.join(columns)}\n"
        "1,64,32,True,64,8,2,1,2,\n3,0,16,False,64,8,2,1,,4\n",
    )

    assert vidur.dense(dense, layers=3).at(4) == pytest.approx(1e-3 * (3 * 10 + 1))
    assert vidur.attention(attention, query_heads=32, kv_heads=4) == [
        Attention(((64, 32),), pytest.approx(3e-3)),
        Attention(((1, 16),) * 3, pytest.approx(5e-3)),
    ]


def test_splitwise_rows_are_a_prompt_step_and_a_decode_step(tmp_path: Path) -> None:
    table = written(
        tmp_path / "perf_model.csv",
        "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel\n"
        "llama2-70b,a100-80gb,512,2,128,100,50,8\nllama2-70b,h100-80gb,512,2,128,60,30,8\n",
    )

    assert splitwise.load(table, model="llama2-70b", tensor_parallel=8) == [
        (Mix.of([(512, 0)] * 2), 0.1),
        (Mix.of([(1, 576)] * 2), 0.05),
    ]
    with pytest.raises(ValueError, match="no 'llama2-70b' on 4 x a100-80gb"):
        splitwise.load(table, model="llama2-70b", tensor_parallel=4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("m,n,k\n1,2,3\n", "no column latency_ms or latency"),
        ("m,n,k,latency\n1,x,3,1\n", "n is 'x'"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        aiconfigurator.gemms(written(tmp_path / "gemm.csv", text))


def test_parts_beyond_the_curves_are_left_out_and_never_guessed() -> None:
    curve = Curve.of([(10, 2.0), (1, 1.0), (10, 4.0)])

    assert curve.at(10) == 3.0  # the median of its repeats
    with pytest.raises(ValueError, match="11 rows lie beyond the 10"):
        curve.at(11)
    assert steps([Attention(((11, 0),), 1.0)], 1, curve) == []


def test_attention_of_two_launches_adds_up() -> None:
    decode, chunk = Attention(((1, 5),), 1.0), Attention(((8, 0),), 2.0)

    assert together([decode], [chunk], 1) == [Attention(((1, 5), (8, 0)), 3.0)]
