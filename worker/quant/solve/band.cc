#include "worker/quant/solve/band.h"

#include <algorithm>

#include "worker/quant/solve/mask.h"

namespace octavo {

uint64_t Band::ScratchBytes(int64_t channels) {
  const auto cells = static_cast<uint64_t>(channels * kBandRows);
  return cells * (sizeof(double) + sizeof(float) + sizeof(uint32_t)) +
         static_cast<uint64_t>(kSweepBlock * kBandRows) * sizeof(double);
}

Band::Band(const BandJob& job, std::byte* scratch) : job_(job) {
  const int64_t cells = job.factor->channels * kBandRows;
  weights_ = reinterpret_cast<double*>(scratch);
  errors_ = weights_ + cells;
  source_ = reinterpret_cast<float*>(errors_ + kSweepBlock * kBandRows);
  bits_ = reinterpret_cast<uint32_t*>(source_ + cells);
}

// Fills zero_ for positions [position, position + count); score(t, r) says what the weight of
// position + t is worth.
template <typename Score>
void Band::MarkZeros(int64_t position, int64_t count, Score score) {
  for (int64_t t = 0; t < count; ++t) {
    const bool dead = job_.factor->dead[static_cast<size_t>(position + t)] != 0;
    const int64_t channel = ChannelAt(position + t);
    for (int64_t r = 0; r < count_; ++r) {
      const int64_t row = row_begin_ + r;
      zero_[t][r] = dead ||
                    (job_.sparse_rows[static_cast<size_t>(row)] != 0 &&
                     source_[(position + t) * kBandRows + r] == 0) ||
                    job_.zero_groups[job_.coder.GroupOf(row, channel)] != 0;
    }
  }
  if (job_.sparsity != Sparsity::kTwoOfFour) return;
  for (int64_t r = 0; r < count_; ++r) {
    if (job_.sparse_rows[static_cast<size_t>(row_begin_ + r)] != 0) continue;
    double scores[kMaskGroup];
    for (int64_t t = 0; t < kMaskGroup; ++t) scores[t] = score(t, r);
    const unsigned zeros = TwoSmallest(scores);
    for (int64_t t = 0; t < kMaskGroup; ++t) zero_[t][r] |= ((zeros >> t) & 1u) != 0;
  }
}

void Band::LoadSource() {
  for (int64_t k = 0; k < job_.factor->channels; ++k) {
    float* to = source_ + k * kBandRows;
    std::fill(to, to + kBandRows, 0.0f);
    if (job_.factor->dead[static_cast<size_t>(k)] != 0) continue;
    for (int64_t r = 0; r < count_; ++r) to[r] = SourceAt(job_.rows, row_begin_ + r, ChannelAt(k));
  }
}

// Zeros of masks go into the nearest codes, and the errors of these into weights_.
void Band::TakeNearest() {
  for (int64_t i = 0; i < job_.factor->channels; i += kMaskGroup) {
    const int64_t last = std::min(i + kMaskGroup, job_.factor->channels);
    MarkZeros(i, last - i, [&](int64_t t, int64_t r) {
      const double w = source_[(i + t) * kBandRows + r];
      return w * w;
    });
    for (int64_t k = i; k < last; ++k) {
      double* errors = weights_ + k * kBandRows;
      std::fill(errors, errors + kBandRows, 0.0);
      for (int64_t r = 0; r < count_; ++r) {
        const int64_t index = StoredIndex(r, k);
        if (zero_[k - i][r]) StoreStored(job_.coder, 0, job_.stored, index);
        const uint32_t bits = LoadStored(job_.coder, job_.stored, index);
        const double scale = ScaleAt(r, k);
        errors[r] = static_cast<double>(source_[k * kBandRows + r]) -
                    static_cast<double>(job_.coder.Value(bits)) * scale;
      }
    }
  }
}

// costs[r] = tr(dW H dW^T) of the errors in weights_: under the damped Hessian a sum of squares,
// less what damping adds.
void Band::SweepNearest(double* costs) {
  const double damping = job_.factor->damping();
  double extra[kBandRows] = {};
  for (int64_t k = 0; k < job_.factor->channels; ++k) {
    for (int64_t r = 0; r < count_; ++r) {
      const double error = weights_[k * kBandRows + r];
      extra[r] += error * error;
    }
  }
  std::fill(costs, costs + kBandRows, 0.0);
  const Triangle& u = job_.factor->u;
  SweepBand(
      u, *job_.ops, weights_, errors_, [](int64_t /*position*/, int64_t /*count*/) {},
      [&](int64_t k, const double* w, double* e) {
        for (int64_t r = 0; r < kBandRows; ++r) {
          e[r] = w[r] / u.Row(k)[k];
          costs[r] += e[r] * e[r];
        }
      });
  for (int64_t r = 0; r < count_; ++r) costs[r] = std::max(0.0, costs[r] - damping * extra[r]);
}

// costs[0 .. kBandRows) gather e^2, the next kBandRows the squared changes of the weights.
void Band::CodeColumn(int64_t position, const double* weights, double* errors, double* costs) {
  const double pivot = job_.factor->u.Row(position)[position];
  std::fill(errors, errors + kBandRows, 0.0);
  for (int64_t r = 0; r < count_; ++r) {
    const float scale = ScaleAt(r, position);
    const bool zero = zero_[position % kMaskGroup][r];
    const uint32_t bits = zero ? 0 : job_.coder.Encode(weights[r], scale);
    const double value = static_cast<double>(job_.coder.Value(bits)) * static_cast<double>(scale);
    bits_[position * kBandRows + r] = bits;
    errors[r] = (weights[r] - value) / pivot;
    costs[r] += errors[r] * errors[r];
    const double change = static_cast<double>(source_[position * kBandRows + r]) - value;
    costs[kBandRows + r] += change * change;
  }
}

void Band::SweepCodes(double* costs) {
  const Triangle& u = job_.factor->u;
  for (int64_t i = 0; i < u.size * kBandRows; ++i) weights_[i] = source_[i];
  double sums[2 * kBandRows] = {};
  SweepBand(
      u, *job_.ops, weights_, errors_,
      [&](int64_t i, int64_t count) {
        MarkZeros(i, count, [&](int64_t t, int64_t r) {
          const double worth = weights_[(i + t) * kBandRows + r] / u.Row(i + t)[i + t];
          return worth * worth;
        });
      },
      [&](int64_t k, const double* w, double* e) { CodeColumn(k, w, e, sums); });
  const double damping = job_.factor->damping();
  for (int64_t r = 0; r < count_; ++r) {
    costs[r] = std::max(0.0, sums[r] - damping * sums[kBandRows + r]);
  }
}

bool Band::HasNearest(int64_t r) const {
  for (int64_t k = 0; k < job_.factor->channels; ++k) {
    if (bits_[k * kBandRows + r] != LoadStored(job_.coder, job_.stored, StoredIndex(r, k))) {
      return false;
    }
  }
  return true;
}

void Band::Solve(int64_t row_begin, int64_t count, RowOutcome* outcomes) {
  row_begin_ = row_begin;
  count_ = count;
  double before[kBandRows];
  double after[kBandRows];
  LoadSource();
  TakeNearest();
  SweepNearest(before);
  SweepCodes(after);
  for (int64_t r = 0; r < count_; ++r) {
    // The same codes cost the same, whatever the last bit of two ways to reckon it says.
    const bool same = HasNearest(r);
    const bool worse = !same && !(after[r] <= before[r]);
    const bool nearest = worse && !job_.coder.saved_again;  // no tool does that
    outcomes[r] = {before[r], same || nearest ? before[r] : after[r], nearest};
    if (nearest || (same && !job_.coder.saved_again)) continue;
    for (int64_t k = 0; k < job_.factor->channels; ++k) {
      const uint32_t bits = job_.coder.Saved(bits_[k * kBandRows + r], ScaleAt(r, k));
      StoreStored(job_.coder, bits, job_.stored, StoredIndex(r, k));
    }
  }
}

}  // namespace octavo
