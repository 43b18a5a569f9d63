#pragma once

// What quantizing a weight does to what it gives: over tokens x, the squared difference of the
// output x W^T to that of quantized weights, of quantized inputs, and of both. Products are those
// of the decoder (kernels/matmul.h), so that they are what serving will give but for the rounding
// of the output; order of summation in docs/numerics.md, "Sensitivity". The same bits for every
// instruction set and number of threads.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "kernels/matmul.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/quant/quantizer.h"
#include "worker/quant/solve/coder.h"

namespace octavo {

// Squares summed over tokens and outputs.
struct OutputSums {
  double output = 0;   // of x W^T, W in BF16
  double weights = 0;  // of the difference that quantized weights make
  double inputs = 0;   // that quantized inputs make; 0 where inputs stay
  double both = 0;     // that both make; that of the weights where inputs stay

  OutputSums& operator+=(const OutputSums& other);
};
// Over Tree.
OutputSums MergeOutputSums(std::span<const OutputSums> parts);

// Tokens that go through weights together, as they are and as they are quantized at run time.
class OutputTokens {
 public:
  // `input`: PER_TOKEN or PER_GROUP, dynamic; null: inputs stay. Takes kSenseTokens rows of F32,
  // twice where inputs are quantized, from `arena`. Errors: kOutOfMemory; kUnsupported for other
  // formats. REQUIRES: IsSupported(isa); `pool` outlives this.
  static absl::StatusOr<OutputTokens> Make(int64_t channels, const v1::NumericFormat* input,
                                           Isa isa, Arena* arena, ThreadPool* pool);

  // The next tokens: finite BF16 values, token t begins at x + t * stride. REQUIRES: they fit.
  void Add(const uint16_t* x, int64_t tokens, int64_t stride);
  void Clear() { tokens_ = 0; }

  int64_t tokens() const { return tokens_; }
  int64_t channels() const { return channels_; }
  int64_t stride() const { return stride_; }
  bool quantized() const { return quantized_; }
  bool grouped() const { return grouped_; }  // a scale per 128 channels
  const float* plain() const { return plain_.as<float>(); }
  const float* codes() const { return codes_.as<float>(); }
  // [token] or [token][scale_stride].
  const float* scales() const { return scales_.as<float>(); }
  int64_t scale_stride() const { return scale_stride_; }

 private:
  OutputTokens() = default;
  void Quantize(const uint16_t* x, int64_t token, uint16_t* scratch);

  int64_t channels_ = 0;
  int64_t stride_ = 0;  // of plain_ and codes_: whole 32-blocks, zero where there is no channel
  int64_t scale_stride_ = 1;
  int64_t tokens_ = 0;
  bool quantized_ = false;
  bool grouped_ = false;
  bool int8_ = false;
  Isa isa_ = Isa::kReference;
  ThreadPool* pool_ = nullptr;
  Buffer plain_, codes_, scales_;
};

// Measures whatever goes through it, rounded to nearest under the rule's scales. Unlike other
// quantizers it has a memory: one caller at a time.
class MeasuringQuantizer final : public Quantizer {
 public:
  // What Quantize came to, a call each, goes into `*sums`. All pointers outlive the quantizer.
  // Errors: as MakeQuantizer; kOutOfMemory; kUnsupported for block-scaled weights whose inputs are
  // scaled by token, and the other way round.
  static absl::StatusOr<std::unique_ptr<MeasuringQuantizer>> Make(const QuantizeRule& rule,
                                                                  const OutputTokens* tokens,
                                                                  Isa isa, Arena* arena,
                                                                  ThreadPool* pool,
                                                                  std::vector<OutputSums>* sums);

  absl::StatusOr<uint32_t> Amax(const WeightRows& rows) const override;
  absl::StatusOr<std::vector<double>> GridErrors(const WeightRows& rows,
                                                 uint32_t joint_amax_bits) const override;
  // REQUIRES: at most 128 rows, of as many columns as the tokens have channels.
  absl::StatusOr<v1::PieceReport> Quantize(const WeightRows& rows, const v1::TieStat* joint,
                                           std::span<std::byte> codes,
                                           std::span<std::byte> scales) const override;

 private:
  MeasuringQuantizer() = default;
  // Rows and their codes into tiles.
  void Pack(const WeightRows& rows, const Coder& coder, std::span<const std::byte> codes) const;
  // Some tokens and groups of 16 rows.
  struct Tile {
    int64_t first = 0;
    int64_t tokens = 0;
    int64_t group_begin = 0;
    int64_t group_end = 0;
  };
  void Product(const Tile& tile, bool weights, bool inputs, float* sums) const;
  void Scale(const Tile& tile, int64_t group, bool weights, bool inputs, const float* sums,
             double* wide) const;
  // Of every row, at its place.
  void MeasureTile(const Tile& tile, OutputSums* sums) const;
  OutputSums Measure(int64_t rows) const;

  QuantizeRule rule_;
  const OutputTokens* tokens_ = nullptr;
  ThreadPool* pool_ = nullptr;
  const MatmulOps* ops_ = nullptr;
  bool blocks_ = false;  // scales of 128 x 128
  std::unique_ptr<Quantizer> nearest_;
  std::vector<OutputSums>* sums_ = nullptr;
  Buffer source_tiles_, code_tiles_;
  Buffer channel_scales_;  // [128-block of k, or 1][128]
  Buffer partial_;         // OutputSums [token tile][128]
  std::vector<float> ones_;
};

}  // namespace octavo
