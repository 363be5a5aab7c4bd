"""Model types that are refused, and why: one sentence part each, that follows the type's name."""

EXPERTS = "each token goes through experts of its own, so that no single W gives a layer's output"
STATES = "its layers carry a state from token to token and are no decoder layers with an MLP each"
GOES_ON = "its layers go on after the MLP is added, so that y is not W u + v"

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        """dbrx deepseek_v2 deepseek_v3 ernie4_5_moe flex_olmo glm4_moe gpt_oss granitemoe
        granitemoehybrid granitemoeshared jamba llama4_text minimax mixtral olmoe phimoe qwen2_moe
        qwen3_moe qwen3_next""".split(),
        EXPERTS,
    ),
    **dict.fromkeys("falcon_mamba mamba mamba2 recurrent_gemma rwkv xlstm".split(), STATES),
    **dict.fromkeys(["gemma3n_text", "gemma4_text"], GOES_ON),
}
