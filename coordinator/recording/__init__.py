"""What a run leaves behind: progress lines, received answers, run.json."""
