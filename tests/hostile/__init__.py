"""Run folders, checkpoints, images and requests that mean harm: every command and the dashboard must hold."""
