"""Back ends for those who have flash-attn or FlashInfer; nothing here imports them before use."""
