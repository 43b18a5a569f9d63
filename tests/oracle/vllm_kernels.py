"""What vLLM's build for CPUs lacks, in plain torch: so that it can be seen how vLLM loads folders that need it.

Configuration, loading, fusing and scales are vLLM's own; only products and casts are computed here. `install()` before any
model is made.
"""

import torch


def scaled_fp8_quant(tensor, scale=None, num_token_padding=None, scale_ub=None, use_per_token_if_dynamic=False, output=None,
                     group_shape=None):
    """torch instead of an operator that the CPU library has by name only."""
    numbers = tensor.float()
    if scale is None:
        over = -1 if use_per_token_if_dynamic else (0, 1)
        scale = numbers.abs().amax(over, keepdim=True).clamp_min(1e-12) / 448
        scale = scale if use_per_token_if_dynamic else scale.reshape(1)
    codes = (numbers / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes, scale


def install():
    import vllm._custom_ops as ops
    from vllm.model_executor.kernels import linear
    from vllm.model_executor.kernels.linear.scaled_mm.BlockScaledMMLinearKernel import Fp8BlockScaledMMLinearKernel
    from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import FP8ScaledMMLinearKernel
    from vllm.platforms.interface import PlatformEnum

    class Blocks(Fp8BlockScaledMMLinearKernel):
        """FP8 blocks, inputs left as they are."""
        apply_input_quant = False

        @classmethod
        def is_supported(cls, compute_capability=None):
            return True, None

        def apply_block_scaled_mm(self, A, B, As, Bs):
            rows, columns = self.weight_group_shape
            scale = Bs.float().repeat_interleave(rows, 0)[:B.shape[0]].repeat_interleave(columns, 1)[:, :B.shape[1]]
            return A.float() @ (B.float() * scale).t()

    class WeightOnly(FP8ScaledMMLinearKernel):
        """FP8 weights with a scale for each channel, inputs left as they are."""

        @classmethod
        def is_supported(cls, compute_capability=None):
            return True, None

        @classmethod
        def can_implement(cls, c):
            return True, None

        def apply_weights(self, layer, x, bias=None):
            weight = layer.weight.float() * layer.weight_scale.float().reshape(1, -1)
            out = x.float() @ weight
            return (out if bias is None else out + bias).to(x.dtype)

        def apply_scaled_mm(self, **arguments):
            raise NotImplementedError

    ops.scaled_fp8_quant = scaled_fp8_quant
    linear._POSSIBLE_FP8_BLOCK_KERNELS[PlatformEnum.CPU].append(Blocks)
    linear._POSSIBLE_WFP8A16_KERNELS[PlatformEnum.CPU].append(WeightOnly)
