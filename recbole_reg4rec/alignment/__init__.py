"""Stage 2: sampled reasoning paths, rewarded and reinforced (PARS, MSRA, GRPO; docs/method.md, 3)."""
