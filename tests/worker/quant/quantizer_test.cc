// Quantizers against arithmetic of their own in F64, and against themselves cut into pieces.

#include "worker/quant/quantizer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/tree.h"
#include "gtest/gtest.h"
#include "tests/worker/quant/test_rule.h"
#include "worker/quant/mse.h"

namespace octavo {
namespace {

struct Weight {
  DType dtype;
  int64_t rows, columns;
  std::vector<float> values;  // exactly representable in dtype
  std::vector<std::byte> bytes;

  WeightRows Piece(int64_t begin, int64_t end) const {
    const size_t row_bytes = static_cast<size_t>(columns) * static_cast<size_t>(ByteSize(dtype));
    WeightRows piece;
    piece.bytes = std::span(bytes).subspan(static_cast<size_t>(begin) * row_bytes,
                                           static_cast<size_t>(end - begin) * row_bytes);
    piece.dtype = dtype;
    piece.row_begin = begin;
    piece.rows = end - begin;
    piece.columns = columns;
    piece.tensor = "model.layers.0.mlp.up_proj.weight";
    piece.file = "model-00001-of-00002.safetensors";
    piece.file_offset = 1000 + static_cast<size_t>(begin) * row_bytes;
    return piece;
  }
  WeightRows All() const { return Piece(0, rows); }
  float At(int64_t row, int64_t column) const { return values[row * columns + column]; }
};

void Set(Weight& weight, int64_t row, int64_t column, float value) {
  const size_t index = static_cast<size_t>(row * weight.columns + column);
  const size_t size = static_cast<size_t>(ByteSize(weight.dtype));
  uint32_t bits = BitsOf(value);
  if (weight.dtype == DType::kBF16) bits = Bf16FromF32(value);
  if (weight.dtype == DType::kF16) bits = F16FromF32(value);
  std::memcpy(weight.bytes.data() + index * size, &bits, size);
  weight.values[index] = weight.dtype == DType::kBF16  ? F32FromBf16(static_cast<uint16_t>(bits))
                         : weight.dtype == DType::kF16 ? F32FromF16(static_cast<uint16_t>(bits))
                                                       : value;
}

Weight RandomWeight(DType dtype, int64_t rows, int64_t columns, uint32_t seed) {
  Weight weight{dtype, rows, columns, std::vector<float>(rows * columns),
                std::vector<std::byte>(rows * columns * ByteSize(dtype))};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      Set(weight, r, c, normal(random) * (r % 7 == 3 ? 40.0f : 1.0f));
    }
  }
  return weight;
}

struct Output {
  std::vector<std::byte> codes, scales;
  v1::PieceReport report;
};

Output QuantizeAll(const QuantizeRule& rule, Isa isa, const WeightRows& rows,
                   const v1::TieStat* joint = nullptr) {
  auto quantizer = MakeQuantizer(rule, isa);
  EXPECT_TRUE(quantizer.ok()) << quantizer.status();
  Output out;
  out.codes.resize(CodeBytes(rows.rows, rows.columns));
  out.scales.resize(ScaleBytes(rule, rows.rows, rows.columns));
  auto report = (*quantizer)->Quantize(rows, joint, out.codes, out.scales);
  EXPECT_TRUE(report.ok()) << report.status();
  if (report.ok()) out.report = *report;
  return out;
}

double ScaleAt(const QuantizeRule& rule, const Output& out, size_t index) {
  uint32_t bits = 0;
  const size_t size = static_cast<size_t>(ByteSize(rule.scale_dtype));
  std::memcpy(&bits, out.scales.data() + index * size, size);
  if (rule.scale_dtype == DType::kBF16) return F32FromBf16(static_cast<uint16_t>(bits));
  if (rule.scale_dtype == DType::kF16) return F32FromF16(static_cast<uint16_t>(bits));
  return FloatFromBits(bits);
}

double ValueOf(const QuantizeRule& rule, std::byte code) {
  if (rule.format.type() == v1::NUMERIC_INT8) return std::bit_cast<int8_t>(code);
  return F32FromFp8(std::to_integer<uint8_t>(code));
}

// x rounded to `bits` significant binary digits, ties to even (normal range).
double RoundTo(double x, int bits) {
  if (x == 0) return 0;
  const int exponent = std::ilogb(x);
  return std::ldexp(std::nearbyint(std::ldexp(x, bits - 1 - exponent)), exponent - bits + 1);
}

size_t GroupOf(const QuantizeRule& rule, const Weight& weight, int64_t row, int64_t column) {
  if (rule.format.granularity() == v1::PER_CHANNEL) return static_cast<size_t>(row);
  if (rule.format.granularity() == v1::PER_TENSOR) return 0;
  return static_cast<size_t>((row / 128) * ((weight.columns + 127) / 128) + column / 128);
}

std::vector<double> GroupMaxima(const QuantizeRule& rule, const Weight& weight) {
  std::vector<double> maxima(ScaleCount(rule.format, weight.rows, weight.columns), 0.0);
  for (int64_t r = 0; r < weight.rows; ++r) {
    for (int64_t c = 0; c < weight.columns; ++c) {
      double& top = maxima[GroupOf(rule, weight, r, c)];
      top = std::max(top, std::abs(static_cast<double>(weight.At(r, c))));
    }
  }
  return maxima;
}

constexpr v1::Granularity kGranularities[] = {v1::PER_TENSOR, v1::PER_CHANNEL, v1::PER_BLOCK};
constexpr v1::NumericType kTypes[] = {v1::NUMERIC_FP8_E4M3, v1::NUMERIC_INT8};

TEST(RoundToNearest, ScalesAndCodesFollowTheFormulas) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Weight weight = RandomWeight(dtype, 300, 200, 1);
    for (const v1::NumericType type : kTypes) {
      for (const v1::Granularity granularity : kGranularities) {
        const QuantizeRule rule = TestRule(type, granularity, v1::ABSMAX, DType::kBF16);
        const Output out = QuantizeAll(rule, BestIsa(), weight.All());
        const double limit = type == v1::NUMERIC_INT8 ? 127 : 448;
        const std::vector<double> maxima = GroupMaxima(rule, weight);
        for (size_t g = 0; g < maxima.size(); ++g) {
          EXPECT_EQ(ScaleAt(rule, out, g), RoundTo(RoundTo(maxima[g] / limit, 24), 8));
        }
        EXPECT_EQ(out.report.scale_min(),
                  RoundTo(RoundTo(*std::ranges::min_element(maxima) / limit, 24), 8));
        EXPECT_EQ(out.report.scale_max(),
                  RoundTo(RoundTo(*std::ranges::max_element(maxima) / limit, 24), 8));
        double error = 0;
        for (int64_t r = 0; r < weight.rows; ++r) {
          for (int64_t c = 0; c < weight.columns; ++c) {
            const double scale = ScaleAt(rule, out, GroupOf(rule, weight, r, c));
            const double want = RoundTo(weight.At(r, c) / scale, 24);
            const double got = ValueOf(rule, out.codes[r * weight.columns + c]);
            const double clamped = std::clamp(want, -limit, limit);
            double nearest;
            if (type == v1::NUMERIC_INT8) {
              nearest = std::nearbyint(clamped);
            } else if (std::abs(clamped) < 0x1p-6) {
              nearest = std::ldexp(std::nearbyint(std::ldexp(clamped, 9)), -9);
            } else {
              nearest = RoundTo(clamped, 4);
            }
            ASSERT_EQ(got, nearest) << r << " " << c;
            error += std::pow(got * scale - weight.At(r, c), 2);
          }
        }
        EXPECT_NEAR(out.report.squared_error() / error, 1.0, 1e-6);
        EXPECT_EQ(out.report.elements(), 60000u);
        EXPECT_EQ(out.report.zero_groups(), 0u);
        EXPECT_EQ(out.report.tensor(), "model.layers.0.mlp.up_proj.weight");
      }
    }
  }
}

TEST(Quantizer, SameBytesAndSameReportOnEveryInstructionSet) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Weight weight = RandomWeight(dtype, 140, 333, 2);
    for (const v1::Algorithm algorithm : {v1::ABSMAX, v1::MSE}) {
      for (const v1::NumericType type : kTypes) {
        for (const v1::Granularity granularity : kGranularities) {
          const QuantizeRule rule = TestRule(type, granularity, algorithm, dtype);
          const Output want = QuantizeAll(rule, Isa::kReference, weight.All());
          for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
            if (!IsSupported(isa)) continue;
            const Output got = QuantizeAll(rule, isa, weight.All());
            EXPECT_TRUE(got.codes == want.codes && got.scales == want.scales);
            EXPECT_EQ(got.report.SerializeAsString(), want.report.SerializeAsString());
          }
        }
      }
    }
  }
}

TEST(Quantizer, PiecesOfRowsGiveTheBytesOfTheWhole) {
  const Weight weight = RandomWeight(DType::kBF16, 400, 257, 3);
  for (const v1::Algorithm algorithm : {v1::ABSMAX, v1::MSE}) {
    for (const v1::Granularity granularity : kGranularities) {
      const QuantizeRule rule =
          TestRule(v1::NUMERIC_FP8_E4M3, granularity, algorithm, DType::kBF16);
      const Output whole = QuantizeAll(rule, BestIsa(), weight.All());
      auto quantizer = MakeQuantizer(rule, BestIsa());
      ASSERT_TRUE(quantizer.ok());
      const WeightRows pieces[] = {weight.Piece(0, 256), weight.Piece(256, 400)};
      v1::TieStat joint;
      for (const WeightRows& piece : pieces) {
        joint.set_amax_bits(std::max(joint.amax_bits(), (*quantizer)->Amax(piece).value()));
      }
      const std::vector<double> first =
          (*quantizer)->GridErrors(pieces[0], joint.amax_bits()).value();
      const std::vector<double> second =
          (*quantizer)->GridErrors(pieces[1], joint.amax_bits()).value();
      ASSERT_EQ(first.size(), algorithm == v1::MSE ? 20u : 0u);
      for (size_t p = 0; p < first.size(); ++p) joint.add_mse_errors(first[p] + second[p]);
      std::vector<std::byte> codes, scales;
      for (const WeightRows& piece : pieces) {
        const Output part = QuantizeAll(rule, BestIsa(), piece, &joint);
        codes.insert(codes.end(), part.codes.begin(), part.codes.end());
        if (granularity == v1::PER_TENSOR) {
          EXPECT_EQ(part.scales, whole.scales);
        } else {
          scales.insert(scales.end(), part.scales.begin(), part.scales.end());
        }
      }
      EXPECT_TRUE(codes == whole.codes);
      if (granularity != v1::PER_TENSOR) {
        EXPECT_EQ(scales, whole.scales);
      }
    }
  }
}

TEST(MseSearch, PicksTheGridPointOfSmallestErrorByF64) {
  const Weight weight = RandomWeight(DType::kBF16, 160, 300, 4);
  for (const v1::NumericType type : kTypes) {
    for (const v1::Granularity granularity : kGranularities) {
      const QuantizeRule rule = TestRule(type, granularity, v1::MSE, DType::kF32);
      const Output out = QuantizeAll(rule, BestIsa(), weight.All());
      const double limit = type == v1::NUMERIC_INT8 ? 127 : 448;
      const std::vector<double> maxima = GroupMaxima(rule, weight);
      std::vector<std::array<double, 20>> errors(maxima.size());
      for (int64_t r = 0; r < weight.rows; ++r) {
        for (int64_t c = 0; c < weight.columns; ++c) {
          const size_t g = GroupOf(rule, weight, r, c);
          for (int i = 0; i < 20; ++i) {
            const double scale = maxima[g] * (1.0 - i / 100.0) / limit;
            const double q = std::clamp(weight.At(r, c) / scale, -limit, limit);
            double value = type == v1::NUMERIC_INT8 ? std::nearbyint(q) : RoundTo(q, 4);
            if (type != v1::NUMERIC_INT8 && std::abs(q) < 0x1p-6) {
              value = std::ldexp(std::nearbyint(std::ldexp(q, 9)), -9);
            }
            errors[g][i] += std::pow(std::abs(value * scale - weight.At(r, c)), 2.4);
          }
        }
      }
      int shrunk = 0;
      for (size_t g = 0; g < maxima.size(); ++g) {
        const double smallest = *std::min_element(errors[g].begin(), errors[g].end());
        const double scale = ScaleAt(rule, out, g);
        const int chosen = static_cast<int>(std::lround(100 - 100 * scale * limit / maxima[g]));
        ASSERT_GE(chosen, 0);
        ASSERT_LT(chosen, 20);
        EXPECT_LE(errors[g][chosen], smallest * (1 + 1e-5)) << g;
        shrunk += chosen > 0 ? 1 : 0;
      }
      EXPECT_GT(shrunk, 0);
    }
  }
}

TEST(Quantizer, ZeroGroupsGetScaleOneAndAreCounted) {
  Weight weight = RandomWeight(DType::kBF16, 256, 256, 5);
  for (int64_t r = 0; r < 128; ++r) {
    for (int64_t c = 0; c < 128; ++c) Set(weight, r, c, c % 2 == 0 ? 0.0f : -0.0f);
  }
  for (int64_t c = 0; c < 256; ++c) Set(weight, 200, c, 0.0f);
  for (const v1::Algorithm algorithm : {v1::ABSMAX, v1::MSE}) {
    const QuantizeRule channel =
        TestRule(v1::NUMERIC_FP8_E4M3, v1::PER_CHANNEL, algorithm, DType::kBF16);
    const Output rows = QuantizeAll(channel, BestIsa(), weight.All());
    EXPECT_EQ(rows.report.zero_groups(), 1u);
    EXPECT_EQ(ScaleAt(channel, rows, 200), 1.0);
    EXPECT_LT(rows.report.scale_max(), 1) << "of the other groups";
    EXPECT_GT(rows.report.scale_min(), 0);
    const QuantizeRule block = TestRule(v1::NUMERIC_INT8, v1::PER_BLOCK, algorithm, DType::kF32);
    const Output blocks = QuantizeAll(block, BestIsa(), weight.All());
    EXPECT_EQ(blocks.report.zero_groups(), 1u);
    EXPECT_EQ(ScaleAt(block, blocks, 0), 1.0);
    EXPECT_LT(blocks.report.scale_max(), 1);
    for (int64_t c = 0; c < 128; ++c) EXPECT_EQ(blocks.codes[c], std::byte{0});
  }
}

TEST(Quantizer, NonFiniteValuesAreNamed) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    Weight weight = RandomWeight(dtype, 300, 200, 6);
    Set(weight, 270, 133, std::nanf(""));
    for (const v1::Granularity granularity : kGranularities) {
      for (const v1::Algorithm algorithm : {v1::ABSMAX, v1::MSE}) {
        const QuantizeRule rule =
            TestRule(v1::NUMERIC_FP8_E4M3, granularity, algorithm, DType::kF32);
        auto quantizer = MakeQuantizer(rule, BestIsa());
        ASSERT_TRUE(quantizer.ok());
        const WeightRows piece = weight.Piece(256, 300);
        std::vector<std::byte> codes(CodeBytes(44, 200)), scales(ScaleBytes(rule, 44, 200));
        const uint64_t offset = 1000 + (270 * 200 + 133) * static_cast<uint64_t>(ByteSize(dtype));
        for (const absl::Status& status :
             {(*quantizer)->Quantize(piece, nullptr, codes, scales).status(),
              (*quantizer)->Amax(piece).status()}) {
          ASSERT_FALSE(status.ok());
          EXPECT_EQ(ReasonOf(status), Reason::kNonFinite);
          const std::string text(status.message());
          EXPECT_NE(text.find("NaN at row 270, column 133"), std::string::npos) << text;
          EXPECT_NE(text.find("model.layers.0.mlp.up_proj.weight"), std::string::npos) << text;
          EXPECT_NE(text.find("model-00001-of-00002.safetensors"), std::string::npos) << text;
          EXPECT_NE(text.find(std::to_string(offset)), std::string::npos) << text;
        }
      }
    }
    Set(weight, 270, 133, -INFINITY);
    auto quantizer = MakeQuantizer(
        TestRule(v1::NUMERIC_INT8, v1::PER_CHANNEL, v1::ABSMAX, DType::kF32), BestIsa());
    const absl::Status status = (*quantizer)->Amax(weight.All()).status();
    EXPECT_NE(std::string(status.message()).find("infinite at row 270"), std::string::npos);
  }
}

TEST(Quantizer, CompatibilityModeDividesAsTheToolDoes) {
  Weight weight = RandomWeight(DType::kBF16, 64, 200, 7);
  for (int64_t c = 0; c < 200; ++c) Set(weight, 5, c, 0.0f);
  for (const v1::NumericType type : kTypes) {
    QuantizeRule rule = TestRule(type, v1::PER_CHANNEL, v1::ABSMAX, DType::kBF16);
    rule.compat = v1::COMPAT_LLM_COMPRESSOR;
    const Output out = QuantizeAll(rule, BestIsa(), weight.All());
    const double half_range = type == v1::NUMERIC_INT8 ? 127.5 : 448;
    const std::vector<double> maxima = GroupMaxima(rule, weight);
    for (int64_t r = 0; r < 64; ++r) {
      const double scale = ScaleAt(rule, out, static_cast<size_t>(r));
      EXPECT_EQ(scale, r == 5 ? 0.0078125 : RoundTo(RoundTo(maxima[r] / half_range, 24), 8));
      for (int64_t c = 0; c < 200; ++c) {
        // Quotient rounded to BF16 first, then to the code.
        const double q = RoundTo(RoundTo(weight.At(r, c) / scale, 24), 8);
        const double got = ValueOf(rule, out.codes[r * 200 + c]);
        if (type == v1::NUMERIC_INT8) {
          EXPECT_EQ(got, std::clamp(std::nearbyint(q), -128.0, 127.0));
        } else if (std::abs(q) >= 0x1p-6) {
          EXPECT_EQ(got, RoundTo(std::clamp(q, -448.0, 448.0), 4));
        }
      }
    }
  }
}

TEST(MakeQuantizer, RefusesWhatItCannotDo) {
  const QuantizeRule good = TestRule(v1::NUMERIC_INT8, v1::PER_CHANNEL, v1::ABSMAX, DType::kBF16);
  QuantizeRule bad = good;
  bad.format.set_type(v1::NUMERIC_KEEP);
  EXPECT_EQ(ReasonOf(MakeQuantizer(bad, BestIsa()).status()), Reason::kUnsupported);
  bad = good;
  bad.format.set_granularity(v1::PER_TOKEN);
  EXPECT_EQ(ReasonOf(MakeQuantizer(bad, BestIsa()).status()), Reason::kUnsupported);
  bad = good;
  bad.scale_dtype = DType::kI8;
  EXPECT_EQ(ReasonOf(MakeQuantizer(bad, BestIsa()).status()), Reason::kUnsupported);
  bad = good;
  bad.compat = static_cast<v1::Compat>(99);
  EXPECT_EQ(ReasonOf(MakeQuantizer(bad, BestIsa()).status()), Reason::kUnsupported);
  bad = good;
  bad.algorithm = v1::MSE;
  bad.compat = v1::COMPAT_LLM_COMPRESSOR;
  EXPECT_EQ(ReasonOf(MakeQuantizer(bad, BestIsa()).status()), Reason::kUnsupported);
  bad = TestRule(v1::NUMERIC_INT8, v1::PER_BLOCK, v1::ABSMAX, DType::kBF16);
  bad.format.set_block_columns(100);
  EXPECT_EQ(ReasonOf(MakeQuantizer(bad, BestIsa()).status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace octavo
