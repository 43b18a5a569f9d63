// A block takes one KV head of a token: the first job is its key, the second its value, the others
// its queries; warp w takes jobs w, w + 4, .. . A lane holds two neighbouring elements of the lower
// half of a head and the two that are rotated with them.

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/fp8.h"
#include "kernels/cuda/clip.h"
#include "kernels/cuda/lane_sums.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/rows.h"

namespace octavo::cuda {

struct alignas(4) Pair {  // of BF16
  uint16_t values[2];
};
struct alignas(2) CodePair {
  uint8_t codes[2];
};

// kNormed: heads of queries or keys are normed.
template <bool kFp8, bool kNormed>
struct RotateKernel {
  static constexpr int kThreads = 128;
  static constexpr int kWarps = kThreads / simt::kWarp;
  static constexpr int kSharedBytes = 4;
  static constexpr int kSlots = static_cast<int>(kPageTokens);
  static constexpr uint16_t kNan = 0x7fc0;
  RotateAndStore call;
  ClipRule clip;

  OCTAVO_DEVICE int HeadDim() const { return static_cast<int>(call.pages.head_dim); }

  // What makes a head's elements ready for rotation: clip, then the norm where there is one.
  struct Prepared {
    const uint16_t* head;
    const uint16_t* norm;
    float factor;
    ClipRule clip;

    OCTAVO_DEVICE Pair At(int i) const {
      Pair x = *reinterpret_cast<const Pair*>(head + i);
      for (uint16_t& bits : x.values) bits = clip.Clipped(bits);
      if (!kNormed || norm == nullptr) return x;
      const Pair weight = *reinterpret_cast<const Pair*>(norm + i);
      for (int j = 0; j < 2; ++j) {
        const uint16_t normed = Bf16FromF32(F32FromBf16(x.values[j]) * factor);
        x.values[j] = Bf16FromF32(F32FromBf16(normed) * F32FromBf16(weight.values[j]));
      }
      return x;
    }
  };

  // All lanes of the warp call it.
  OCTAVO_DEVICE Prepared Prepare(const uint16_t* head, const uint16_t* norm) const {
    float factor = 0;
    if (kNormed && norm != nullptr) {
      const float squares = WarpLaneSum(call.pages.head_dim, [&](int64_t j) {
        const float value = F32FromBf16(clip.Clipped(head[j]));
        return value * value;
      });
      factor = Rsqrt(squares / static_cast<float>(call.pages.head_dim) + call.eps);
    }
    return {head, norm, factor, clip};
  }

  OCTAVO_DEVICE static float Rounded(float x) { return F32FromBf16(Bf16FromF32(x)); }

  // Calls store(index, pair) for all of the rotated head.
  template <typename Store>
  OCTAVO_DEVICE void Rotate(const Prepared& head, int64_t position, Store store) const {
    const int half = HeadDim() / 2;
    const uint16_t* cos = call.cos + position * half;
    const uint16_t* sin = call.sin + position * half;
    for (int i = simt::Lane() * 2; i < half; i += simt::kWarp * 2) {
      const Pair cosines = *reinterpret_cast<const Pair*>(cos + i);
      const Pair sines = *reinterpret_cast<const Pair*>(sin + i);
      Pair low = head.At(i);
      Pair high = head.At(i + half);
      for (int j = 0; j < 2; ++j) {
        const float x = F32FromBf16(low.values[j]);
        const float y = F32FromBf16(high.values[j]);
        const float c = F32FromBf16(cosines.values[j]);
        const float s = F32FromBf16(sines.values[j]);
        low.values[j] = Bf16FromF32(Rounded(x * c) + Rounded(-y * s));
        high.values[j] = Bf16FromF32(Rounded(y * c) + Rounded(x * s));
      }
      store(i, low);
      store(i + half, high);
    }
  }

  // Where a token's key or value of one head goes; null: nowhere.
  OCTAVO_DEVICE std::byte* SlotOf(int64_t token, int64_t head, bool value) const {
    const int slot = call.slots[token];
    if (slot < 0) return nullptr;
    return call.pages.data + call.pages.Offset(slot / kSlots, head, value) +
           slot % kSlots * call.pages.head_dim * call.pages.element_bytes();
  }

  // Stores two elements and returns the larger magnitude.
  OCTAVO_DEVICE static uint32_t StorePair(std::byte* to, int i, const Pair& x, float scale) {
    if (to != nullptr) {
      if constexpr (kFp8) {
        CodePair codes;
        for (int j = 0; j < 2; ++j) codes.codes[j] = Fp8FromF32(F32FromBf16(x.values[j]) / scale);
        *reinterpret_cast<CodePair*>(to + i) = codes;
      } else {
        *reinterpret_cast<Pair*>(to + i * 2) = x;
      }
    }
    return MergeAmax(MagnitudeBitsOfBf16(x.values[0]), MagnitudeBitsOfBf16(x.values[1]));
  }

  // Both return the largest magnitude of the lane's elements.
  OCTAVO_DEVICE uint32_t StoreKey(int64_t token, int64_t head) const {
    const uint16_t* key = call.key + token * call.key_stride + head * call.pages.head_dim;
    std::byte* to = SlotOf(token, head, false);
    uint32_t most = 0;
    Rotate(Prepare(key, call.key_norm), call.positions[token], [&](int i, const Pair& x) {
      most = MergeAmax(most, StorePair(to, i, x, call.key_scale));
    });
    return most;
  }
  OCTAVO_DEVICE uint32_t StoreValue(int64_t token, int64_t head) const {
    const uint16_t* from = call.value + token * call.value_stride + head * call.pages.head_dim;
    const Prepared value = {from, nullptr, 0, clip};
    std::byte* to = SlotOf(token, head, true);
    uint32_t most = 0;
    for (int i = simt::Lane() * 2; i < HeadDim(); i += simt::kWarp * 2) {
      most = MergeAmax(most, StorePair(to, i, value.At(i), call.value_scale));
    }
    return most;
  }

  OCTAVO_DEVICE void operator()() const {
    const int kv_heads = static_cast<int>(call.pages.kv_heads);
    const int64_t token = simt::Block() / kv_heads;
    const int head = simt::Block() % kv_heads;
    const int queries_per_head = static_cast<int>(call.queries_per_head);
    const int group = queries_per_head * HeadDim();
    uint16_t* queries = call.query + token * call.query_stride + int64_t{head} * group;
    auto* worst = simt::SharedMemory<uint32_t>();
    if constexpr (kFp8) {
      if (simt::ThreadIndex() == 0) *worst = 0;
      simt::SyncBlock();
    }
    for (int job = simt::Warp(); job < queries_per_head + 2; job += kWarps) {
      if (job < 2) {
        const uint32_t most = job == 0 ? StoreKey(token, head) : StoreValue(token, head);
        if (kFp8 && !IsFiniteAmax(most)) simt::AtomicMax(worst, most);
      } else {
        uint16_t* query = queries + (job - 2) * HeadDim();
        Rotate(Prepare(query, call.query_norm), call.positions[token],
               [&](int i, const Pair& x) { *reinterpret_cast<Pair*>(query + i) = x; });
      }
    }
    if constexpr (kFp8) {
      simt::SyncBlock();
      if (IsFiniteAmax(*worst)) return;
      for (int i = simt::ThreadIndex(); i < group; i += kThreads) queries[i] = kNan;
    }
  }
};

namespace {

template <bool kFp8>
void LaunchInto(const RotateAndStore& call, simt::Stream stream) {
  const ClipRule clip = call.clip > 0 ? ClipRule::Of(call.clip) : ClipRule::Off();
  const simt::Grid grid{.blocks = static_cast<int>(call.tokens * call.pages.kv_heads),
                        .shared_bytes = RotateKernel<kFp8, false>::kSharedBytes};
  if (call.query_norm == nullptr && call.key_norm == nullptr) {
    simt::Launch(RotateKernel<kFp8, false>{call, clip}, grid, stream);
  } else {
    simt::Launch(RotateKernel<kFp8, true>{call, clip}, grid, stream);
  }
}

}  // namespace

void Launch(const RotateAndStore& call, simt::Stream stream) {
  if (call.pages.fp8) {
    LaunchInto<true>(call, stream);
  } else {
    LaunchInto<false>(call, stream);
  }
}

}  // namespace octavo::cuda
