#include "worker/serve/compare.h"

#include <string_view>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "fmt/format.h"
#include "kernels/divergence.h"
#include "kernels/softmax.h"
#include "worker/serve/sampler.h"

namespace octavo {
namespace {

// Walks over the rows of one model.
class RowCursor {
 public:
  RowCursor(const NextRows& next, const CompareParts& parts, std::string_view name)
      : next_(next),
        vocab_(static_cast<size_t>(parts.vocab_size)),
        width_(static_cast<size_t>(parts.layer_count * parts.hidden_size)),
        name_(name) {}

  // Sees to it that the current row is there.
  absl::Status Fill() {
    if (at_ < rows_.logits.size()) return absl::OkStatus();
    auto rows = next_();
    if (!rows.ok()) return WithContext(rows.status(), name_);
    if (rows->start != position_ || rows->logits.empty() || rows->logits.size() % vocab_ != 0) {
      return MakeError(Reason::kStateMismatch,
                       fmt::format("{}: {} logits from position {} on, where rows of {} from "
                                   "position {} on were due",
                                   name_, rows->logits.size(), rows->start, vocab_, position_));
    }
    if (rows->residuals.size() != rows->logits.size() / vocab_ * width_) {
      return MakeError(
          Reason::kStateMismatch,
          fmt::format("{}: {} values of residual streams beside {} rows, where {} each were due",
                      name_, rows->residuals.size(), rows->logits.size() / vocab_, width_));
    }
    rows_ = *std::move(rows);
    at_ = 0;
    return absl::OkStatus();
  }
  // The residual streams of the current row, [layers, hidden] BF16. Before Take.
  std::span<const uint16_t> Residuals() const {
    return std::span<const uint16_t>(rows_.residuals).subspan(at_ / vocab_ * width_, width_);
  }
  // The current row; steps over it.
  std::span<const float> Take() {
    const auto row = std::span<const float>(rows_.logits).subspan(at_, vocab_);
    at_ += vocab_;
    ++position_;
    return row;
  }

 private:
  const NextRows& next_;
  const size_t vocab_;
  const size_t width_;  // of a row's residual streams
  const std::string_view name_;
  EngineCall::Rows rows_;
  size_t at_ = 0;
  uint32_t position_ = 0;
};

absl::Status ComparePosition(std::span<const float> reference, std::span<const float> model,
                             uint32_t position, int32_t next, Isa isa, v1::Comparison* out) {
  OCTAVO_ASSIGN_OR_RETURN(const LogSum reference_sum, LogSumOf(reference, isa));
  OCTAVO_ASSIGN_OR_RETURN(const LogSum model_sum, LogSumOf(model, isa));
  const auto id = static_cast<size_t>(next);
  out->add_reference_logprobs(reference_sum.LogProb(reference[id]));
  out->add_logprobs(model_sum.LogProb(model[id]));
  const DivergenceSums sums = DivergenceOpsFor(isa).sums(
      reference.data(), reference_sum.max, model.data(), model_sum.max, std::ssize(reference));
  out->add_divergences(DivergenceOf(sums, reference_sum.max, model_sum.max));
  const SoftmaxOps& softmax = SoftmaxOpsFor(isa);
  if (softmax.argmax(reference.data(), std::ssize(reference)) !=
      softmax.argmax(model.data(), std::ssize(model))) {
    out->add_disagreements(position);
  }
  return absl::OkStatus();
}

// Adds one position's distances to the sums of every layer.
void CompareLayers(std::span<const uint16_t> reference, std::span<const uint16_t> model,
                   int64_t layer_count, int64_t hidden, v1::Comparison* out) {
  while (out->layers_size() < layer_count) out->add_layers();
  for (int64_t layer = 0; layer < layer_count; ++layer) {
    double difference = 0;
    double square = 0;
    for (int64_t k = 0; k < hidden; ++k) {
      const auto at = static_cast<size_t>(layer * hidden + k);
      const double a = F32FromBf16(reference[at]);
      const double b = F32FromBf16(model[at]);
      difference += (b - a) * (b - a);
      square += a * a;
    }
    v1::LayerDistance& sums = *out->mutable_layers(static_cast<int>(layer));
    sums.set_squared_difference(sums.squared_difference() + difference);
    sums.set_squared_reference(sums.squared_reference() + square);
  }
}

}  // namespace

absl::StatusOr<v1::Comparison> CompareSequence(std::span<const int32_t> ids,
                                               const CompareParts& parts) {
  OCTAVO_CHECK(ids.size() >= 2);
  const FpEnv environment;
  RowCursor reference(parts.reference, parts, "reference");
  RowCursor model(parts.model, parts, "model");
  v1::Comparison result;
  for (uint32_t t = 0; t + 1 < ids.size(); ++t) {
    OCTAVO_RETURN_IF_ERROR((parts.reference_first ? reference : model).Fill());
    OCTAVO_RETURN_IF_ERROR((parts.reference_first ? model : reference).Fill());
    CompareLayers(reference.Residuals(), model.Residuals(), parts.layer_count, parts.hidden_size,
                  &result);
    OCTAVO_RETURN_IF_ERROR(
        ComparePosition(reference.Take(), model.Take(), t, ids[t + 1], parts.isa, &result));
  }
  return result;
}

}  // namespace octavo
