// First a warp takes a row: lane i holds the experts i, i + 32, .. . Then a block takes an expert
// and goes through all choices to number its visits.

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/units.h"
#include "kernels/cuda/lane_sums.h"
#include "kernels/cuda/router/router.h"

namespace octavo::cuda {

// kPerLane: experts that a lane holds.
template <int kPerLane>
struct RouteKernel {
  static constexpr int kThreads = 128;
  static constexpr int kWarps = kThreads / simt::kWarp;
  static constexpr int kExperts = kPerLane * simt::kWarp;
  static constexpr int kSharedBytes = kWarps * kExperts * 4;
  RouteTokens call;

  OCTAVO_DEVICE int Expert(int i) const { return simt::Lane() + i * simt::kWarp; }

  // Turns the lane's logits into p. `shared` is the warp's.
  OCTAVO_DEVICE void Softmax(int64_t row, float (&p)[kPerLane], float* shared) const {
    const auto experts = static_cast<int>(call.experts);
    float* logits = call.logits + row * call.experts;
    float most = logits[0];
    uint32_t magnitude = 0;
    for (int i = 0; i < kPerLane; ++i) {
      p[i] = Expert(i) < experts ? logits[Expert(i)] : most;
      magnitude = MergeAmax(magnitude, MagnitudeBitsOfF32(BitsOf(p[i])));
    }
    if (!IsFiniteAmax(magnitude)) simt::AtomicMax(call.bad, static_cast<uint32_t>(row + 1));
    for (int i = 0; i < kPerLane; ++i) most = p[i] > most ? p[i] : most;
    for (int mask = simt::kWarp / 2; mask > 0; mask /= 2) {
      const float other = simt::ShuffleXor(most, mask);
      most = other > most ? other : most;
    }
    for (int i = 0; i < kPerLane; ++i) {
      p[i] = Exp(p[i] - most);
      if (Expert(i) < experts) shared[Expert(i)] = p[i];
    }
    simt::SyncWarp();
    const float sum = WarpLaneSum(experts, [shared](int64_t j) { return shared[j]; });
    for (int i = 0; i < kPerLane; ++i) {
      p[i] = p[i] / sum;
      if (Expert(i) < experts) logits[Expert(i)] = p[i];
    }
    simt::SyncWarp();  // shared is free
  }

  // A larger key goes first: p, of equal ones the lower expert. p is never below zero.
  OCTAVO_DEVICE static uint64_t Key(float p, int expert) {
    return (uint64_t{BitsOf(p)} << 32) | (0xffffffffu - static_cast<uint32_t>(expert));
  }

  // The key that comes r-th, in lane r.
  OCTAVO_DEVICE uint64_t Choose(const float (&p)[kPerLane]) const {
    uint64_t keys[kPerLane];
    for (int i = 0; i < kPerLane; ++i) {
      keys[i] = Expert(i) < call.experts ? Key(p[i], Expert(i)) : 0;
    }
    uint64_t mine = 0;
    for (int round = 0; round < static_cast<int>(call.per_token); ++round) {
      uint64_t best = 0;
      for (const uint64_t key : keys) best = key > best ? key : best;
      for (int mask = simt::kWarp / 2; mask > 0; mask /= 2) {
        const uint64_t other = simt::ShuffleXor(best, mask);
        best = other > best ? other : best;
      }
      for (uint64_t& key : keys) key = key == best ? 0 : key;
      if (simt::Lane() == round) mine = best;
    }
    return mine;
  }

  OCTAVO_DEVICE void operator()() const {
    const int64_t row = int64_t{simt::Block()} * kWarps + simt::Warp();
    if (row >= call.rows) return;
    float* shared = simt::SharedMemory<float>() + simt::Warp() * kExperts;
    float p[kPerLane];
    Softmax(row, p, shared);
    const uint64_t key = Choose(p);
    const auto expert = static_cast<int>(0xffffffffu - static_cast<uint32_t>(key));
    const float chosen_p = FloatFromBits(static_cast<uint32_t>(key >> 32));
    // From lanes in order of p to places in order of experts.
    const auto per_token = static_cast<int>(call.per_token);
    int place = 0;
    for (int r = 0; r < per_token; ++r) place += simt::Shuffle(expert, r) < expert ? 1 : 0;
    const bool chosen = simt::Lane() < per_token;
    if (chosen) shared[place] = chosen_p;
    simt::SyncWarp();
    if (!chosen) return;
    float sum = 0;
    for (int i = 0; i < per_token; ++i) sum += shared[i];
    call.chosen[row * per_token + place] = expert;
    call.weights[row * per_token + place] = call.normalized ? chosen_p / sum : chosen_p;
  }
};

struct VisitsKernel {
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / simt::kWarp;
  static constexpr int kSharedBytes = 2 * kWarps * 4;
  RouteTokens call;

  // A thread takes a stretch of choices, so that threads in order are rows in order.
  OCTAVO_DEVICE void operator()() const {
    const auto count = static_cast<int>(call.rows * call.per_token);
    const auto per_token = static_cast<int>(call.per_token);
    const int length = static_cast<int>(CeilDiv(count, kThreads));
    const int64_t first = int64_t{simt::ThreadIndex()} * length;
    const int begin = first < count ? static_cast<int>(first) : count;
    const int end = length < count - begin ? begin + length : count;
    const int expert = simt::Block();
    int lower = 0;  // choices of experts before this one
    int own = 0;
    for (int i = begin; i < end; ++i) {
      lower += call.chosen[i] < expert ? 1 : 0;
      own += call.chosen[i] == expert ? 1 : 0;
    }
    int through = own;  // those of the warp's lanes up to this one
    for (int distance = 1; distance < simt::kWarp; distance *= 2) {
      lower += simt::ShuffleXor(lower, distance);
      const int other = simt::Shuffle(through, (simt::Lane() - distance) & (simt::kWarp - 1));
      through += simt::Lane() >= distance ? other : 0;
    }
    auto* lower_of_warp = simt::SharedMemory<int>();
    int* own_of_warp = lower_of_warp + kWarps;
    if (simt::Lane() == simt::kWarp - 1) {
      lower_of_warp[simt::Warp()] = lower;
      own_of_warp[simt::Warp()] = through;
    }
    simt::SyncBlock();
    int visit = through - own;
    int expert_begin = 0;
    for (int warp = 0; warp < kWarps; ++warp) {
      expert_begin += lower_of_warp[warp];
      visit += warp < simt::Warp() ? own_of_warp[warp] : 0;
    }
    visit += expert_begin;
    for (int i = begin; i < end; ++i) {
      if (call.chosen[i] != expert) continue;
      call.visitors[visit] = i / per_token;
      call.visits[i] = visit++;
    }
    if (simt::ThreadIndex() > 0) return;
    call.begin[expert] = expert_begin;
    if (expert == call.experts - 1) call.begin[expert + 1] = count;
  }
};

namespace {

template <int kPerLane>
void LaunchRows(const RouteTokens& call, simt::Stream stream) {
  using Kernel = RouteKernel<kPerLane>;
  static_assert(Kernel::kExperts <= RouteTokens::kExpertsMax);
  simt::Launch(Kernel{call},
               {.blocks = static_cast<int>(CeilDiv(call.rows, Kernel::kWarps)),
                .shared_bytes = Kernel::kSharedBytes},
               stream);
}

}  // namespace

void Launch(const RouteTokens& call, simt::Stream stream) {
  if (call.experts <= simt::kWarp) {
    LaunchRows<1>(call, stream);
  } else {
    LaunchRows<RouteTokens::kExpertsMax / simt::kWarp>(call, stream);
  }
  simt::Launch(
      VisitsKernel{call},
      {.blocks = static_cast<int>(call.experts), .shared_bytes = VisitsKernel::kSharedBytes},
      stream);
}

}  // namespace octavo::cuda
