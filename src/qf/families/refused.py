"""Model types that are refused, and why: one sentence part each, that follows the type's name."""

UNSHARED = "its tokens have no expert in common, so that no single W gives a layer's output"
STATES = "its layers carry a state from token to token and are no decoder layers with an MLP each"
GOES_ON = "its layers go on after the MLP is added, so that y is not W u + v"

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        "dbrx flex_olmo gpt_oss granitemoe jamba minimax mixtral olmoe phimoe qwen3_moe".split(),
        UNSHARED,
    ),
    **dict.fromkeys("falcon_mamba mamba mamba2 recurrent_gemma rwkv xlstm".split(), STATES),
    **dict.fromkeys(["gemma3n_text", "gemma4_text"], GOES_ON),
}
