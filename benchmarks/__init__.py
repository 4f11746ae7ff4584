"""How long things take, as ratios within one run: benchmarks.spine, .monorepo, .images."""
