// Choosing the twins of the serving kernels, and the code they share.

#include <cstring>

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"
#include "kernels/serving_twins.h"

namespace octavo {
namespace {

const internal::ServingTwins& TwinsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return internal::kServingAvx512;
  if (isa == Isa::kAvx2) return internal::kServingAvx2;
#endif
  return internal::kServingReference;
}

template <WeightType Type>
void StoreElement(std::byte* tile_run, int64_t tile, int64_t lane, int64_t depth,
                  const std::byte* element) {
  std::byte* to = tile_run + tile * TileBytes(Type) + TileOffset(Type, lane, depth);
  std::memcpy(to, element, ElementBytes(Type));
}

template <WeightType Type>
void StoreAs(const KvLayout& layout, std::byte* head_part, int64_t slot, const std::byte* key,
             const std::byte* value) {
  std::byte* values = head_part + layout.key_bytes();
  for (int64_t d = 0; d < layout.head_dim; ++d) {
    StoreElement<Type>(head_part, slot / 16 * layout.depth_blocks() + d / 32, slot % 16, d % 32,
                       key + d * ElementBytes(Type));
    StoreElement<Type>(values, d / 16, d % 16, slot, value + d * ElementBytes(Type));
  }
}

}  // namespace

void StoreKeyValue(const KvLayout& layout, std::byte* head_part, int64_t slot, const void* key,
                   const void* value) {
  if (slot == 0) std::memset(head_part, 0, static_cast<size_t>(layout.bytes()));
  const auto store =
      layout.type == WeightType::kFp8 ? StoreAs<WeightType::kFp8> : StoreAs<WeightType::kBf16>;
  store(layout, head_part, slot, static_cast<const std::byte*>(key),
        static_cast<const std::byte*>(value));
}

void RopeFrequencies(const RopeParameters& parameters, float* frequencies) {
  const int64_t half = parameters.head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(parameters.head_dim);
    float frequency = 1.0f / Pow(parameters.theta, exponent);
    if (parameters.scaling == RopeScalingType::kLinear) frequency /= parameters.factor;
    if (parameters.scaling == RopeScalingType::kLlama3) {
      const float wavelength = 6.2831855f / frequency;
      const float original = parameters.original_max_position;
      if (wavelength > original / parameters.low_factor) {
        frequency /= parameters.factor;
      } else if (wavelength >= original / parameters.high_factor) {
        const float smooth = (original / wavelength - parameters.low_factor) /
                             (parameters.high_factor - parameters.low_factor);
        frequency = (1.0f - smooth) * frequency / parameters.factor + smooth * frequency;
      }
    }
    frequencies[i] = frequency;
  }
}

void RopeRow(const float* frequencies, int64_t head_dim, int64_t position, uint16_t* cos,
             uint16_t* sin) {
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    const SinCosPair pair = SinCos(static_cast<float>(position) * frequencies[i]);
    cos[i] = Bf16FromF32(pair.cos);
    sin[i] = Bf16FromF32(pair.sin);
  }
}

const AttentionOps& AttentionOpsFor(Isa isa) { return TwinsFor(isa).attention; }
const NormOps& NormOpsFor(Isa isa) { return TwinsFor(isa).norm; }
const RopeOps& RopeOpsFor(Isa isa) { return TwinsFor(isa).rope; }
const ActivationOps& ActivationOpsFor(Isa isa) { return TwinsFor(isa).activation; }
const SoftmaxOps& SoftmaxOpsFor(Isa isa) { return TwinsFor(isa).softmax; }

std::span<const KernelRow> AttentionKernelRows() {
  static constexpr KernelRow kRows[] = {
      {"attention", "bf16 cache", Isa::kReference}, {"attention", "bf16 cache", Isa::kAvx2},
      {"attention", "bf16 cache", Isa::kAvx512},    {"attention", "fp8 cache", Isa::kReference},
      {"attention", "fp8 cache", Isa::kAvx2},       {"attention", "fp8 cache", Isa::kAvx512}};
  return kRows;
}
std::span<const KernelRow> NormKernelRows() {
  static constexpr KernelRow kRows[] = {{"rms_norm, layer_norm", "bf16", Isa::kReference},
                                        {"rms_norm, layer_norm", "bf16", Isa::kAvx2},
                                        {"rms_norm, layer_norm", "bf16", Isa::kAvx512}};
  return kRows;
}
std::span<const KernelRow> RopeKernelRows() {
  static constexpr KernelRow kRows[] = {{"rope", "bf16", Isa::kReference},
                                        {"rope", "bf16", Isa::kAvx2},
                                        {"rope", "bf16", Isa::kAvx512}};
  return kRows;
}
std::span<const KernelRow> ActivationKernelRows() {
  static constexpr KernelRow kRows[] = {{"silu_multiply, clip", "bf16", Isa::kReference},
                                        {"silu_multiply, clip", "bf16", Isa::kAvx2},
                                        {"silu_multiply, clip", "bf16", Isa::kAvx512}};
  return kRows;
}
std::span<const KernelRow> SoftmaxKernelRows() {
  static constexpr KernelRow kRows[] = {{"log_sum_exp, softmax, argmax", "f32", Isa::kReference},
                                        {"log_sum_exp, softmax, argmax", "f32", Isa::kAvx2},
                                        {"log_sum_exp, softmax, argmax", "f32", Isa::kAvx512}};
  return kRows;
}

}  // namespace octavo
