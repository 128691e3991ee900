"""V-MoE models as PyTorch modules, for fine-tuning and evaluation. Their saved state can be exported again."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError("vmoe_torch needs PyTorch; pip install 'vmoe-export[export,torch]'") from None

from vmoe_torch.loading import load_model
from vmoe_torch.losses import importance_loss, load_loss
from vmoe_torch.model import Vmoe

__all__ = ["Vmoe", "importance_loss", "load_loss", "load_model"]
