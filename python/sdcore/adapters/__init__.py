"""What changes a loaded model: LoRA and its kin."""
