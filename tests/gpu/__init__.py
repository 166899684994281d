"""Is it right, and how fast, on this machine's GPU: ``make gpu``. Needs torch, torchvision, timm and peft alone."""
