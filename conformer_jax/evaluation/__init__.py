"""What is known of a trained model: what it said of held-out clips, probes of a frozen encoder."""
