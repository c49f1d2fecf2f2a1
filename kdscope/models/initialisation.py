"""How kdscope's own networks begin (He, Zhang, Ren & Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2)."""

from torch import nn


def initialise(network: nn.Module) -> None:
    """Convolutions ~ N(0, 2 / (k k C_out)), biases 0, batch norm scale 1 and shift 0; from torch's global generator.

    Fan-out keeps the size of the gradient (eq. 14), as in the code of ResNet, WRN and CRD. The weights of linear layers
    keep PyTorch's uniform distribution in +-1/sqrt(C_in), as they do there.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
