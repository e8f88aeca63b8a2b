"""The ROI heads and their three mask heads: UNet, Lite and ROI Align."""
