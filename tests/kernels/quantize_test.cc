// Every instruction set against the reference, bit for bit, and the reference against independent
// F64 arithmetic.

#include "kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

constexpr size_t kPoints = 20;
constexpr SourceType kTypes[] = {SourceType::kBf16, SourceType::kF16, SourceType::kF32};
constexpr float kScales[] = {1.0f,           0.5f,           0x1p-9f,       0.0123f,
                             0.33333334f,    1.9999999f,     0x1.fep-12f,   3.0517578e-5f,
                             0x1p-126f,      0x1.8p-125f,    0x1p-60f,      0x1.234568p-59f,
                             0x1.fffffep59f, 0x1.000002p60f, 0x1.abcdep70f, 1.5e-38f,
                             448.0f,         7.0f,           0.0009765625f, 0x1.fffffep-30f,
                             0x1.000002p-28f};

std::vector<Isa> VectorIsas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
    if (IsSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

// Raw bytes of a source.
struct Source {
  SourceType type;
  size_t count = 0;
  std::vector<char> bytes;
};

void Append(Source& source, uint32_t bits) {
  const size_t size = ByteSize(source.type);
  source.bytes.insert(source.bytes.end(), size, 0);
  std::memcpy(source.bytes.data() + source.bytes.size() - size, &bits, size);  // little endian
  ++source.count;
}

// All finite values of a 16-bit type.
Source AllFinite(SourceType type) {
  Source source{type, 0, {}};
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = type == SourceType::kF16 ? F32FromF16(static_cast<uint16_t>(bits))
                                                 : F32FromBf16(static_cast<uint16_t>(bits));
    if (std::isfinite(value)) Append(source, bits);
  }
  return source;
}

// Normal values of deviation `sigma`, with zeros and subnormals among them.
Source RandomSource(SourceType type, size_t count, float sigma, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  Source source{type, 0, {}};
  for (size_t i = 0; i < count; ++i) {
    float value = normal(random);
    if (i % 37 == 5) value = 0.0f;
    if (i % 41 == 7) value = -FloatFromBits(random() % 0x800000);
    if (type == SourceType::kF32) Append(source, BitsOf(value));
    if (type == SourceType::kF16) Append(source, F16FromF32(value));
    if (type == SourceType::kBf16) Append(source, Bf16FromF32(value));
  }
  return source;
}

struct CastResult {
  std::vector<uint8_t> codes;
  CastFigures figures;
};

CastResult Cast(Isa isa, const Source& source, const std::vector<float>& scales, size_t group,
                CastRule rule) {
  FpEnv env;
  CastResult result;
  result.codes.assign(source.count + 8, 0xaa);
  QuantizeOpsFor(isa).cast_row(source.bytes.data(), source.type, source.count, scales.data(), group,
                               rule, result.codes.data(), &result.figures);
  return result;
}

void ExpectSame(const CastResult& got, const CastResult& want, const std::string& what) {
  ASSERT_EQ(got.codes, want.codes) << what;
  ASSERT_EQ(BitsOf(got.figures.squared_error), BitsOf(want.figures.squared_error)) << what;
  ASSERT_EQ(BitsOf(got.figures.squared_source), BitsOf(want.figures.squared_source)) << what;
  ASSERT_EQ(BitsOf(got.figures.max_abs_error), BitsOf(want.figures.max_abs_error)) << what;
  ASSERT_EQ(got.figures.saturated, want.figures.saturated) << what;
}

constexpr CastRule kRules[] = {
    {CodeType::kFp8, -127}, {CodeType::kInt8, -127}, {CodeType::kInt8, -128}};

std::string Describe(Isa isa, const Source& source, CastRule rule, float scale) {
  return std::string(Name(isa)) + " type " + std::to_string(static_cast<int>(source.type)) +
         " code " + std::to_string(static_cast<int>(rule.code)) + " count " +
         std::to_string(source.count) + " scale " + std::to_string(scale);
}

TEST(CastRow, SameBitsOnEverySixteenBitValue) {
  for (const SourceType type : {SourceType::kBf16, SourceType::kF16}) {
    const Source source = AllFinite(type);
    for (const float scale : kScales) {
      for (const CastRule rule : kRules) {
        const CastResult want = Cast(Isa::kReference, source, {scale}, source.count, rule);
        for (const Isa isa : VectorIsas()) {
          ExpectSame(Cast(isa, source, {scale}, source.count, rule), want,
                     Describe(isa, source, rule, scale));
        }
      }
    }
  }
}

TEST(CastRow, SameBitsOnRandomF32) {
  Source source{SourceType::kF32, 0, {}};
  std::mt19937 random(7);
  for (int i = 0; i < 300000; ++i) {
    const uint32_t bits = random();
    if ((bits & kF32InfBits) != kF32InfBits) Append(source, bits);
  }
  for (const float scale : kScales) {
    for (const CastRule rule : kRules) {
      const CastResult want = Cast(Isa::kReference, source, {scale}, source.count, rule);
      for (const Isa isa : VectorIsas()) {
        ExpectSame(Cast(isa, source, {scale}, source.count, rule), want,
                   Describe(isa, source, rule, scale));
      }
    }
  }
}

TEST(CastRow, SameBitsOnEveryRaggedShapeAndGroup) {
  for (const SourceType type : kTypes) {
    for (size_t count = 0; count <= 150; ++count) {
      const Source source = RandomSource(type, count, 0.02f, static_cast<uint32_t>(count));
      std::vector<float> scales;
      for (size_t g = 0; g <= count / 16; ++g) scales.push_back(1e-4f * static_cast<float>(g + 1));
      for (const CastRule rule : kRules) {
        for (const size_t group :
             {std::max<size_t>(count, 1), size_t{16}, size_t{48}, size_t{128}}) {
          const CastResult want = Cast(Isa::kReference, source, scales, group, rule);
          ASSERT_EQ(want.codes[count], 0xaa);
          for (const Isa isa : VectorIsas()) {
            ExpectSame(Cast(isa, source, scales, group, rule), want,
                       Describe(isa, source, rule, static_cast<float>(group)));
          }
        }
      }
    }
  }
}

TEST(CastRow, UnalignedRowsGiveTheSameBits) {
  const Source source = RandomSource(SourceType::kBf16, 333, 1.0f, 5);
  const CastResult want = Cast(Isa::kReference, source, {0.01f}, 333, kRules[0]);
  for (const Isa isa : VectorIsas()) {
    Source shifted = source;
    shifted.bytes.insert(shifted.bytes.begin(), 1, 0);  // odd address
    std::vector<uint8_t> codes(334);
    CastFigures figures;
    FpEnv env;
    const float scale = 0.01f;
    QuantizeOpsFor(isa).cast_row(shifted.bytes.data() + 1, source.type, 333, &scale, 333, kRules[0],
                                 codes.data() + 1, &figures);
    EXPECT_TRUE(std::equal(codes.begin() + 1, codes.end(), want.codes.begin()));
  }
}

// The code nearest to value / scale, by search over all codes in F64. Only for quotients that F32
// division represents without coming upon a tie of its own making.
uint8_t NearestFp8(double quotient) {
  uint8_t best = 0;
  double best_distance = std::numeric_limits<double>::infinity();
  for (uint32_t code = 0; code <= kFp8MaxCode; ++code) {
    const double distance = std::abs(std::abs(quotient) - F32FromFp8(static_cast<uint8_t>(code)));
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = static_cast<uint8_t>(code);
      best_distance = distance;
    }
  }
  return static_cast<uint8_t>(best | (std::signbit(quotient) ? 0x80 : 0));
}

TEST(CastRow, Fp8CodesAreNearestBySearch) {
  const Source source = AllFinite(SourceType::kBf16);
  for (const float scale : {1.0f, 0.0123f, 0x1.fep-12f}) {
    const CastResult got = Cast(BestIsa(), source, {scale}, source.count, kRules[0]);
    for (size_t i = 0; i < source.count; ++i) {
      uint16_t bits;
      std::memcpy(&bits, source.bytes.data() + 2 * i, 2);
      const float value = FlushSubnormal(F32FromBf16(bits));
      const float quotient = static_cast<float>(static_cast<double>(value) / scale);
      ASSERT_EQ(got.codes[i], NearestFp8(quotient)) << value << " / " << scale;
    }
  }
}

TEST(CastRow, FiguresAreWhatTheySay) {
  const Source source = RandomSource(SourceType::kF32, 4001, 1.0f, 11);
  for (const CastRule rule : kRules) {
    const float scale = rule.code == CodeType::kFp8 ? 0.005f : 0.02f;  // saturates some
    const CastResult got = Cast(BestIsa(), source, {scale}, source.count, rule);
    double error = 0, squares = 0, largest = 0;
    uint64_t saturated = 0;
    for (size_t i = 0; i < source.count; ++i) {
      float x;
      std::memcpy(&x, source.bytes.data() + 4 * i, 4);
      const uint8_t code = got.codes[i];
      const double value =
          rule.code == CodeType::kFp8 ? F32FromFp8(code) : static_cast<int8_t>(code);
      error += std::pow(value * scale - x, 2);
      squares += std::pow(static_cast<double>(x), 2);
      largest = std::max(largest, std::abs(value * scale - x));
      saturated += std::abs(value) >= CodeMax(rule.code) ? 1 : 0;
    }
    EXPECT_NEAR(got.figures.squared_error / error, 1.0, 1e-6);
    EXPECT_NEAR(got.figures.squared_source / squares, 1.0, 1e-12);
    EXPECT_NEAR(got.figures.max_abs_error / largest, 1.0, 1e-6);
    EXPECT_EQ(got.figures.saturated, saturated);
    EXPECT_GT(saturated, 0u);
  }
}

TEST(GridErrorsRow, SameBitsEverywhereAndTheDefinedSum) {
  for (const SourceType type : kTypes) {
    for (const size_t count : {1u, 15u, 16u, 17u, 128u, 577u}) {
      const Source source = RandomSource(type, count, 0.02f, 17);
      for (const CastRule rule : kRules) {
        std::vector<float> scales;
        for (size_t p = 0; p < kPoints; ++p) {
          scales.push_back(0.08f * (1.0f - 0.01f * static_cast<float>(p)) / CodeMax(rule.code));
        }
        scales[3] = 0x1p-30f;  // beyond the road without division
        std::vector<double> want(kPoints);
        FpEnv env;
        QuantizeOpsFor(Isa::kReference)
            .grid_errors_row(source.bytes.data(), type, count, scales.data(), kPoints, rule,
                             want.data());
        for (const Isa isa : VectorIsas()) {
          std::vector<double> got(kPoints);
          QuantizeOpsFor(isa).grid_errors_row(source.bytes.data(), type, count, scales.data(),
                                              kPoints, rule, got.data());
          ASSERT_EQ(got, want) << Describe(isa, source, rule, 0);
        }
        if (count < 128) continue;
        // Against F64, with the codes of the cast.
        const CastResult cast = Cast(BestIsa(), source, {scales[9]}, count, rule);
        double sum = 0;
        for (size_t i = 0; i < count; ++i) {
          float x = 0;
          std::memcpy(&x, source.bytes.data() + i * ByteSize(type), ByteSize(type));
          if (type == SourceType::kBf16) x = F32FromBf16(static_cast<uint16_t>(BitsOf(x)));
          if (type == SourceType::kF16) x = F32FromF16(static_cast<uint16_t>(BitsOf(x)));
          const double value = rule.code == CodeType::kFp8 ? F32FromFp8(cast.codes[i])
                                                           : static_cast<int8_t>(cast.codes[i]);
          sum += std::pow(std::abs(value * scales[9] - x), 2.4);
        }
        EXPECT_NEAR(want[9] / sum, 1.0, 1e-5);
      }
    }
  }
}

TEST(Amax, SameBitsForEveryLengthAndPosition) {
  for (const SourceType type : kTypes) {
    for (size_t count = 0; count <= 300; ++count) {
      Source source = RandomSource(type, count, 1.0f, static_cast<uint32_t>(count) + 1);
      const uint32_t want = QuantizeOpsFor(Isa::kReference).amax(source.bytes.data(), type, count);
      for (const Isa isa : VectorIsas()) {
        ASSERT_EQ(QuantizeOpsFor(isa).amax(source.bytes.data(), type, count), want);
      }
    }
  }
  // The largest value anywhere in a row is found; F32 subnormals count as 0.
  for (const SourceType type : kTypes) {
    for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
      if (!IsSupported(isa)) continue;
      for (size_t at = 0; at < 200; ++at) {
        Source source = RandomSource(type, 0, 0, 0);
        for (size_t i = 0; i < 200; ++i) {
          const float value = i == at ? -3.0f : 1.5f;
          Append(source, type == SourceType::kF32   ? BitsOf(value)
                         : type == SourceType::kF16 ? F16FromF32(value)
                                                    : Bf16FromF32(value));
        }
        ASSERT_EQ(QuantizeOpsFor(isa).amax(source.bytes.data(), type, 200), BitsOf(3.0f));
      }
      Source tiny{type, 0, {}};
      for (int i = 0; i < 70; ++i) Append(tiny, 0x0001);
      const uint32_t want = type == SourceType::kF16 ? BitsOf(0x1p-24f) : 0;
      EXPECT_EQ(QuantizeOpsFor(isa).amax(tiny.bytes.data(), type, 70), want);
    }
  }
}

TEST(Amax, SeesNanAndInfinityAnywhereAndFindsTheFirst) {
  const uint32_t bad[3][3] = {
      {0x7f80, 0xff80, 0x7fc1}, {0x7c00, 0xfc00, 0x7e01}, {0x7f800000, 0xff800000, 0x7fc00001}};
  for (const SourceType type : kTypes) {
    for (const uint32_t bits : bad[static_cast<int>(type)]) {
      for (size_t at = 0; at < 150; at += 7) {
        Source source = RandomSource(type, 150, 1.0f, 3);
        std::memcpy(source.bytes.data() + at * ByteSize(type), &bits, ByteSize(type));
        EXPECT_EQ(FindNonFinite(source.bytes.data(), type, 150), at);
        for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
          if (!IsSupported(isa)) continue;
          EXPECT_FALSE(IsFiniteAmax(QuantizeOpsFor(isa).amax(source.bytes.data(), type, 150)));
        }
      }
    }
    const Source fine = RandomSource(type, 150, 1.0f, 3);
    EXPECT_EQ(FindNonFinite(fine.bytes.data(), type, 150), 150u);
  }
}

}  // namespace
}  // namespace octavo
