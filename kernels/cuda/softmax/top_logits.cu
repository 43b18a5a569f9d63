// A block takes a row. The key of the k-th logit is found digit by digit, from the top: each pass
// counts by its next digit every key that agrees with the digits so far. Keys are different from
// one another, so that exactly k are at least as great; these are gathered in any order and sorted.

#include "kernels/cuda/simt/simt.h"
#include "kernels/cuda/softmax/logit_key.h"
#include "kernels/cuda/softmax/softmax.h"

namespace octavo::cuda {

struct TopLogitsKernel {
  static constexpr int kThreads = 512;
  static constexpr int kDigitBits = 11;
  static constexpr int kDigits = 1 << kDigitBits;
  static constexpr int kKeyBits = 66;  // six digits, the first with two zeros in front
  struct Shared {
    uint64_t keys[TopLogits::kMax];
    uint32_t counts[kDigits];
    uint64_t prefix;    // the digits found, in the upper bits of a key that are known
    uint32_t wanted;    // how many are still wanted among those that agree with them
    uint32_t agreeing;  // how many agree
    uint32_t gathered;
  };
  TopLogits call;

  // Finds the digit of the last wanted key: counts go down from the greatest digit. One warp.
  OCTAVO_DEVICE static void ChooseDigit(Shared& shared) {
    constexpr int kShare = kDigits / simt::kWarp;  // digits of a lane; lane 0 has the greatest
    const int top = kDigits - 1 - simt::Lane() * kShare;
    uint32_t mine = 0;
    for (int i = 0; i < kShare; ++i) mine += shared.counts[top - i];
    uint32_t before = mine;  // becomes the count of this and all lanes before
    for (int distance = 1; distance < simt::kWarp; distance *= 2) {
      const uint32_t other = simt::Shuffle(before, simt::Lane() - distance);
      if (simt::Lane() >= distance) before += other;
    }
    before -= mine;
    const uint32_t wanted = shared.wanted;
    simt::SyncWarp();
    if (before < wanted && wanted <= before + mine) {
      int digit = top;
      while (before + shared.counts[digit] < wanted) before += shared.counts[digit--];
      shared.prefix = shared.prefix << kDigitBits | static_cast<uint64_t>(digit);
      shared.wanted = wanted - before;
      shared.agreeing = shared.counts[digit];
    }
  }

  // Returns the least of the k greatest keys, or a number below it with no key in between.
  OCTAVO_DEVICE uint64_t LeastKey(const float* row, Shared& shared) const {
    if (simt::ThreadIndex() == 0) {
      shared.prefix = 0;
      shared.wanted = static_cast<uint32_t>(call.k);
      shared.gathered = 0;
    }
    int shift = kKeyBits;  // bits below are unknown
    for (;;) {
      for (int i = simt::ThreadIndex(); i < kDigits; i += kThreads) shared.counts[i] = 0;
      simt::SyncBlock();
      const uint64_t prefix = shared.prefix;
      for (int64_t i = simt::ThreadIndex(); i < call.columns; i += kThreads) {
        const uint64_t key = LogitKey(row[i], static_cast<uint32_t>(i));
        if (shift < kKeyBits && key >> shift != prefix) continue;
        simt::AtomicAdd(&shared.counts[key >> (shift - kDigitBits) & (kDigits - 1)], 1);
      }
      simt::SyncBlock();
      if (simt::Warp() == 0) ChooseDigit(shared);
      simt::SyncBlock();
      shift -= kDigitBits;
      if (shift == 0 || shared.agreeing == shared.wanted) return shared.prefix << shift;
    }
  }

  // Bitonic, descending; `size` is a power of two.
  OCTAVO_DEVICE static void Sort(uint64_t* keys, int size) {
    for (int run = 2; run <= size; run *= 2) {
      for (int distance = run / 2; distance > 0; distance /= 2) {
        for (int i = simt::ThreadIndex(); i < size; i += kThreads) {
          const int other = i ^ distance;
          if (other <= i) continue;
          const bool descending = (i & run) == 0;
          const uint64_t a = keys[i];
          const uint64_t b = keys[other];
          if (descending ? a < b : a > b) {
            keys[i] = b;
            keys[other] = a;
          }
        }
        simt::SyncBlock();
      }
    }
  }

  OCTAVO_DEVICE void operator()() const {
    auto& shared = *simt::SharedMemory<Shared>();
    const int64_t at = simt::Block();
    const float* row = call.logits + at * call.columns;
    const uint64_t least = LeastKey(row, shared);
    int size = 1;
    while (size < call.k) size *= 2;
    for (int i = simt::ThreadIndex(); i < size; i += kThreads) shared.keys[i] = 0;
    simt::SyncBlock();
    for (int64_t i = simt::ThreadIndex(); i < call.columns; i += kThreads) {
      const uint64_t key = LogitKey(row[i], static_cast<uint32_t>(i));
      if (key >= least) shared.keys[simt::AtomicAdd(&shared.gathered, 1)] = key;
    }
    simt::SyncBlock();
    Sort(shared.keys, size);
    for (int64_t i = simt::ThreadIndex(); i < call.k; i += kThreads) {
      const uint32_t index = IndexOfKey(shared.keys[i]);
      call.ids[at * call.k + i] = static_cast<int32_t>(index);
      call.values[at * call.k + i] = row[index];
    }
  }
};

void Launch(const TopLogits& call, simt::Stream stream) {
  simt::Launch(TopLogitsKernel{call},
               {.blocks = static_cast<int>(call.rows),
                .shared_bytes = static_cast<int>(sizeof(TopLogitsKernel::Shared))},
               stream);
}

}  // namespace octavo::cuda
