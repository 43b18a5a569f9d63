#include "worker/quant/solve/output_error.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/scale.h"
#include "core/tensor/bare/tree.h"
#include "core/tensor/bare/units.h"
#include "kernels/quantize_activation.h"
#include "worker/quant/piece.h"

namespace octavo {
namespace {

constexpr int64_t kTileTokens = 64;
constexpr int64_t kRowsMax = kUnitRowMultiple;
constexpr int64_t kTileGroups = 4;  // of 16 rows: as many as kernels like to have
constexpr int64_t kTileWidth = kTileGroups * kTileChannels;

}  // namespace

OutputSums& OutputSums::operator+=(const OutputSums& other) {
  output += other.output;
  weights += other.weights;
  inputs += other.inputs;
  both += other.both;
  return *this;
}

OutputSums MergeOutputSums(std::span<const OutputSums> parts) {
  std::vector<OutputSums> sums(parts.begin(), parts.end());
  for (const MergeStep& step : MergeSteps(static_cast<int>(sums.size()))) {
    sums[static_cast<size_t>(step.into)] += sums[static_cast<size_t>(step.from)];
  }
  return sums.empty() ? OutputSums() : sums.front();
}

absl::StatusOr<OutputTokens> OutputTokens::Make(int64_t channels, const v1::NumericFormat* input,
                                                Isa isa, Arena* arena, ThreadPool* pool) {
  OutputTokens made;
  made.channels_ = channels;
  made.stride_ = RoundUp(channels, kTileDepth);
  made.isa_ = isa;
  made.pool_ = pool;
  const auto bytes = static_cast<uint64_t>(kSenseTokens * made.stride_) * sizeof(float);
  OCTAVO_ASSIGN_OR_RETURN(made.plain_, arena->Allocate(bytes, "tokens to measure with"));
  if (input == nullptr) return made;
  made.quantized_ = true;
  made.grouped_ = input->granularity() == v1::PER_GROUP;
  made.int8_ = input->type() == v1::NUMERIC_INT8;
  const bool known =
      input->dynamic() && (made.grouped_ ? !made.int8_ && input->block_columns() == kActivationGroup
                                         : input->granularity() == v1::PER_TOKEN);
  if (!known) {
    return MakeError(Reason::kUnsupported,
                     "the error of inputs is known for scales per token and "
                     "per group of 128 only");
  }
  if (made.grouped_) made.scale_stride_ = CeilDiv(made.stride_, kScaleBlock);
  OCTAVO_ASSIGN_OR_RETURN(made.codes_, arena->Allocate(bytes, "quantized tokens"));
  OCTAVO_ASSIGN_OR_RETURN(
      made.scales_, arena->Allocate(static_cast<uint64_t>(kSenseTokens * made.scale_stride_) * 4,
                                    "scales of tokens"));
  return made;
}

// `scratch`: a row of BF16.
void OutputTokens::Quantize(const uint16_t* x, int64_t token, uint16_t* scratch) {
  const QuantizeActivationOps& ops = QuantizeActivationOpsFor(isa_);
  const auto count = static_cast<size_t>(channels_);
  float* to = codes_.as<float>() + token * stride_;
  float* scale = scales_.as<float>() + token * scale_stride_;
  if (int8_) {
    const Int8Dynamic dynamic = Int8DynamicScale(ops.amax(x, count));
    auto* codes = reinterpret_cast<int8_t*>(scratch);
    ops.int8_multiply(x, count, dynamic.factor, codes);
    for (size_t i = 0; i < count; ++i) to[i] = codes[i];
    *scale = dynamic.scale;
    return;
  }
  if (grouped_) {
    OCTAVO_CHECK(ops.fp8_groups_bf16(x, count, scale, scratch));
  } else {
    *scale = Fp8DynamicScale(ops.amax(x, count));
    ops.fp8_divide_bf16(x, count, *scale, scratch);
  }
  MatmulOpsFor(isa_).widen(scratch, channels_, to);
}

void OutputTokens::Add(const uint16_t* x, int64_t tokens, int64_t stride) {
  OCTAVO_CHECK(tokens_ + tokens <= kSenseTokens);
  std::vector<std::vector<uint16_t>> scratch(static_cast<size_t>(pool_->size()));
  pool_->ParallelFor(tokens, 8, [&](int64_t begin, int64_t end, int thread) {
    std::vector<uint16_t>& own = scratch[static_cast<size_t>(thread)];
    own.resize(static_cast<size_t>(stride_));
    for (int64_t token = begin; token < end; ++token) {
      const uint16_t* row = x + token * stride;
      MatmulOpsFor(isa_).widen(row, channels_, plain_.as<float>() + (tokens_ + token) * stride_);
      if (quantized_) Quantize(row, tokens_ + token, own.data());
    }
  });
  tokens_ += tokens;
}

absl::StatusOr<std::unique_ptr<MeasuringQuantizer>> MeasuringQuantizer::Make(
    const QuantizeRule& rule, const OutputTokens* tokens, Isa isa, Arena* arena, ThreadPool* pool,
    std::vector<OutputSums>* sums) {
  std::unique_ptr<MeasuringQuantizer> made(new MeasuringQuantizer());
  OCTAVO_ASSIGN_OR_RETURN(made->nearest_, MakeQuantizer(rule, isa));
  made->rule_ = rule;
  made->tokens_ = tokens;
  made->pool_ = pool;
  made->ops_ = &MatmulOpsFor(isa);
  made->sums_ = sums;
  made->blocks_ = rule.format.granularity() == v1::PER_BLOCK;
  if (tokens->quantized() && tokens->grouped() != made->blocks_) {
    return MakeError(Reason::kUnsupported,
                     "weights in blocks go with inputs in groups, and the other way round");
  }
  const auto tiles = static_cast<uint64_t>(kRowsMax * tokens->stride()) * 2;
  const int64_t scales = made->blocks_ ? CeilDiv(tokens->stride(), kScaleBlock) : 1;
  const int64_t partial = kSenseTokens / kTileTokens * kRowsMax;
  made->ones_.assign(static_cast<size_t>(std::max(kRowsMax, scales)), 1.0f);
  OCTAVO_ASSIGN_OR_RETURN(made->source_tiles_, arena->Allocate(tiles, "weights to measure"));
  OCTAVO_ASSIGN_OR_RETURN(made->code_tiles_, arena->Allocate(tiles, "quantized weights"));
  OCTAVO_ASSIGN_OR_RETURN(
      made->channel_scales_,
      arena->Allocate(static_cast<uint64_t>(scales * kRowsMax) * 4, "scales of weights"));
  OCTAVO_ASSIGN_OR_RETURN(
      made->partial_, arena->Allocate(static_cast<uint64_t>(partial) * sizeof(OutputSums), "sums"));
  return made;
}

absl::StatusOr<uint32_t> MeasuringQuantizer::Amax(const WeightRows& rows) const {
  return nearest_->Amax(rows);
}

absl::StatusOr<std::vector<double>> MeasuringQuantizer::GridErrors(const WeightRows& rows,
                                                                   uint32_t joint_amax_bits) const {
  return nearest_->GridErrors(rows, joint_amax_bits);
}

void MeasuringQuantizer::Pack(const WeightRows& rows, const Coder& coder,
                              std::span<const std::byte> codes) const {
  const int64_t groups = CeilDiv(rows.rows, kTileChannels);
  const PackedWeights layout = {WeightType::kBf16, groups, tokens_->stride() / kTileDepth};
  std::memset(source_tiles_.data(), 0, layout.bytes());
  std::memset(code_tiles_.data(), 0, layout.bytes());
  float* scales = channel_scales_.as<float>();
  const int64_t blocks = blocks_ ? CeilDiv(rows.columns, kScaleBlock) : 1;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int64_t row = 0; row < kRowsMax; ++row) {
      scales[block * kRowsMax + row] =
          row < rows.rows ? coder.scales[coder.GroupOf(row, block * kScaleBlock)] : 1.0f;
    }
  }
  pool_->ParallelFor(rows.rows, kTileChannels, [&](int64_t begin, int64_t end, int /*thread*/) {
    std::vector<uint16_t> source(static_cast<size_t>(rows.columns));
    std::vector<uint16_t> values(source.size());
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t channel = 0; channel < rows.columns; ++channel) {
        const auto at = static_cast<size_t>(channel);
        source[at] = Bf16FromF32(SourceAt(rows, row, channel));
        // Codes are exact in BF16.
        values[at] =
            Bf16FromF32(coder.Value(LoadStored(coder, codes, row * rows.columns + channel)));
      }
      const auto bytes = [](const std::vector<uint16_t>& line) {
        return reinterpret_cast<const std::byte*>(line.data());
      };
      PackChannel(layout, source_tiles_.data(), row, 0, bytes(source), rows.columns);
      PackChannel(layout, code_tiles_.data(), row, 0, bytes(values), rows.columns);
    }
  });
}

// The product of either side as it is or quantized: sums of the kernel, [token][kTileWidth].
void MeasuringQuantizer::Product(const Tile& tile, bool weights, bool inputs, float* sums) const {
  const OutputTokens& tokens = *tokens_;
  const int64_t depth = tokens.stride() / kTileDepth;
  const PackedWeights packed = {WeightType::kBf16, tile.group_end, depth,
                                (weights ? code_tiles_ : source_tiles_).data()};
  const MatmulPart part = {tile.tokens, tile.group_begin, tile.group_end, 0, depth};
  const float* x = (inputs ? tokens.codes() : tokens.plain()) + tile.first * tokens.stride();
  if (!blocks_ || (!weights && !inputs)) {
    ops_->sum(packed, part, x, tokens.stride(), sums, kTileWidth);
    return;
  }
  const BlockScales scales = {
      inputs ? tokens.scales() + tile.first * tokens.scale_stride() : ones_.data(),
      inputs ? tokens.scale_stride() : 0, weights ? channel_scales_.as<float>() : ones_.data(),
      weights ? kRowsMax : 0};
  ops_->sum_scaled(packed, part, x, tokens.stride(), scales, sums, kTileWidth);
}

// Sums of 16 rows in F64, times what scales are left: [token][kTileChannels].
void MeasuringQuantizer::Scale(const Tile& tile, int64_t group, bool weights, bool inputs,
                               const float* sums, double* wide) const {
  const float* row_scales =
      inputs ? tokens_->scales() + tile.first * tokens_->scale_stride() : nullptr;
  const float* channel_scales = channel_scales_.as<float>() + group * kTileChannels;
  const float* from = sums + (group - tile.group_begin) * kTileChannels;
  for (int64_t token = 0; token < tile.tokens; ++token) {
    const double row = inputs && !blocks_ ? row_scales[token] : 1.0f;
    for (int64_t lane = 0; lane < kTileChannels; ++lane) {
      const double channel = weights && !blocks_ ? channel_scales[lane] : 1.0f;
      wide[token * kTileChannels + lane] =
          static_cast<double>(from[token * kTileWidth + lane]) * row * channel;
    }
  }
}

void MeasuringQuantizer::MeasureTile(const Tile& tile, OutputSums* sums) const {
  const int kinds = tokens_->quantized() ? 4 : 2;
  float products[4][kTileTokens * kTileWidth];  // bit 0: quantized weights, bit 1: inputs
  for (int kind = 0; kind < kinds; ++kind)
    Product(tile, (kind & 1) != 0, (kind & 2) != 0, products[kind]);
  for (int64_t group = tile.group_begin; group < tile.group_end; ++group) {
    double output[kTileTokens * kTileChannels];
    Scale(tile, group, false, false, products[0], output);
    OutputSums* own = sums + group * kTileChannels;
    constexpr double OutputSums::*kInto[] = {&OutputSums::output, &OutputSums::weights,
                                             &OutputSums::inputs, &OutputSums::both};
    for (int kind = 0; kind < kinds; ++kind) {
      double wide[kTileTokens * kTileChannels];
      Scale(tile, group, (kind & 1) != 0, (kind & 2) != 0, products[kind], wide);
      double lanes[kTileChannels] = {};
      for (int64_t at = 0; at < tile.tokens * kTileChannels; ++at) {
        const double value = kind == 0 ? wide[at] : wide[at] - output[at];
        lanes[at % kTileChannels] += value * value;
      }
      for (int64_t lane = 0; lane < kTileChannels; ++lane) own[lane].*kInto[kind] = lanes[lane];
    }
    for (int64_t lane = 0; kinds == 2 && lane < kTileChannels; ++lane) {
      own[lane].inputs = 0;
      own[lane].both = own[lane].weights;
    }
  }
}

OutputSums MeasuringQuantizer::Measure(int64_t rows) const {
  const int64_t groups = CeilDiv(rows, kTileChannels);
  const int64_t runs = CeilDiv(groups, kTileGroups);  // of groups
  const int64_t tiles = CeilDiv(tokens_->tokens(), kTileTokens);
  auto* partial = partial_.as<OutputSums>();
  pool_->ParallelFor(tiles * runs, 1, [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t task = begin; task < end; ++task) {
      Tile tile;
      tile.group_begin = task % runs * kTileGroups;
      tile.group_end = std::min(tile.group_begin + kTileGroups, groups);
      tile.first = task / runs * kTileTokens;
      tile.tokens = std::min(kTileTokens, tokens_->tokens() - tile.first);
      MeasureTile(tile, partial + task / runs * kRowsMax);
    }
  });
  OutputSums all;
  for (int64_t row = 0; row < rows; ++row) {
    OutputSums own;
    for (int64_t tile = 0; tile < tiles; ++tile) own += partial[tile * kRowsMax + row];
    all += own;
  }
  return all;
}

absl::StatusOr<v1::PieceReport> MeasuringQuantizer::Quantize(const WeightRows& rows,
                                                             const v1::TieStat* joint,
                                                             std::span<std::byte> codes,
                                                             std::span<std::byte> scales) const {
  const FpEnv env;
  OCTAVO_CHECK(rows.rows <= kRowsMax && rows.columns == tokens_->channels());
  OCTAVO_ASSIGN_OR_RETURN(v1::PieceReport report, nearest_->Quantize(rows, joint, codes, scales));
  Pack(rows, CoderOfScales(rule_, rows, scales), codes);
  sums_->push_back(Measure(rows.rows));
  return report;
}

}  // namespace octavo
