"""The smallest studies: what they are trained on, and a teacher with its student."""

SMALL = {"data": "digits:8", "model": "resnet8", "epochs": 1, "batch_size": 512, "device": "cpu", "optim.lr": 0.02}
PAIR = {"t": {"settings": {"model": "resnet14"}}, "s": {"settings": {"method": "kd"}, "teachers": "t"}}
