"""One file or folder per job: each is a short list of steps over one model."""
