"""One self-contained page for a run or a study: what was trained, what it says, and the images themselves."""
