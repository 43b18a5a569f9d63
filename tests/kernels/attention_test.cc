// Attention of every instruction set against the reference, bit for bit, over ragged shapes; the
// reference against an emulation that knows no tiles.

#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "gtest/gtest.h"
#include "kernels/isa.h"
#include "kernels/serving_twins.h"
#include "tests/kernels/serving_twins_fixture.h"

namespace octavo {
namespace {

// What a cache is filled with and asked.
struct Case {
  int64_t head_dim = 0;
  int64_t keys = 0;
  std::vector<int64_t> last_keys;                          // by row
  std::vector<std::vector<uint16_t>> key, value, queries;  // BF16
  WeightType type = WeightType::kBf16;
  float key_scale = 1;
  float value_scale = 1;

  std::string Text() const {
    return fmt::format("{} cache, head_dim {}, {} keys, {} rows",
                       type == WeightType::kFp8 ? "FP8" : "BF16", head_dim, keys, last_keys.size());
  }
};

Case MakeCase(WeightType type, int64_t head_dim, int64_t keys, int64_t rows) {
  std::mt19937_64 random(11);
  Case c;
  c.head_dim = head_dim;
  c.keys = keys;
  c.type = type;
  for (int64_t j = 0; j < keys; ++j) {
    c.key.push_back(RandomBf16(random, head_dim, 1.0f));
    c.value.push_back(RandomBf16(random, head_dim, 1.0f));
  }
  for (int64_t row = 0; row < rows; ++row) {
    c.last_keys.push_back((keys - 1) - row % keys);
    c.queries.push_back(RandomBf16(random, head_dim, 2.0f));
  }
  if (type == WeightType::kFp8) {
    c.key_scale = 0.0061f;  // some keys saturate
    c.value_scale = 0.73f;  // values reach down to subnormal codes
  }
  return c;
}

std::vector<uint8_t> Codes(const std::vector<uint16_t>& x, float scale) {
  std::vector<uint8_t> codes;
  for (const uint16_t one : x) codes.push_back(Fp8FromF32(F32FromBf16(one) / scale));
  return codes;
}

// The numbers that attention reads.
std::vector<float> Stored(const std::vector<uint16_t>& x, WeightType type, float scale) {
  std::vector<float> out;
  for (const uint16_t one : x) out.push_back(F32FromBf16(one));
  if (type != WeightType::kFp8) return out;
  const std::vector<uint8_t> codes = Codes(x, scale);
  std::transform(codes.begin(), codes.end(), out.begin(),
                 [](uint8_t code) { return F32FromFp8(code); });
  return out;
}

std::vector<uint16_t> RunAttention(const AttentionOps& ops, const Case& c) {
  const KvLayout layout = {c.head_dim, c.type};
  const int64_t block_count = CeilDiv(c.keys, kKeyBlock);
  const auto rows = static_cast<int64_t>(c.last_keys.size());
  std::vector<std::byte> cache(static_cast<size_t>(block_count * layout.bytes() + 64),
                               std::byte{0x7f});  // what slot 0 has to clear
  std::byte* base = cache.data() + (64 - reinterpret_cast<uintptr_t>(cache.data()) % 64);
  std::vector<const std::byte*> blocks;
  for (int64_t block = 0; block < block_count; ++block) {
    blocks.push_back(base + block * layout.bytes());
  }
  for (int64_t j = 0; j < c.keys; ++j) {
    const auto at = static_cast<size_t>(j);
    std::byte* part = base + j / kKeyBlock * layout.bytes();
    if (c.type == WeightType::kFp8) {
      StoreKeyValue(layout, part, j % kKeyBlock, Codes(c.key[at], c.key_scale).data(),
                    Codes(c.value[at], c.value_scale).data());
    } else {
      StoreKeyValue(layout, part, j % kKeyBlock, c.key[at].data(), c.value[at].data());
    }
  }
  const int64_t depth = layout.depth_blocks() * 32;
  std::vector<float> queries(static_cast<size_t>(rows * depth));
  for (int64_t row = 0; row < rows; ++row) {
    internal::kMatmulReference.widen(c.queries[static_cast<size_t>(row)].data(), c.head_dim,
                                     queries.data() + row * depth);
  }
  std::vector<float> scores(static_cast<size_t>(rows * block_count * kKeyBlock), 7.0f);
  std::vector<float> sums(static_cast<size_t>(rows * layout.value_groups() * 16), 7.0f);
  std::vector<uint16_t> out(static_cast<size_t>(rows * c.head_dim));
  std::vector<uint16_t*> out_rows;
  for (int64_t row = 0; row < rows; ++row) out_rows.push_back(out.data() + row * c.head_dim);
  AttentionCall call;
  call.layout = layout;
  call.scale = Rsqrt(static_cast<float>(c.head_dim));
  call.key_scale = c.key_scale;
  call.value_scale = c.value_scale;
  call.rows = rows;
  call.queries = queries.data();
  call.last_keys = c.last_keys.data();
  call.blocks = blocks.data();
  call.block_count = block_count;
  call.scores = scores.data();
  call.sums = sums.data();
  call.out = out_rows.data();
  ops.attend(call);
  return out;
}

// The 32-block rule; a(k) and b(k) for k < count.
template <typename A, typename B>
float BlockRule(size_t count, A a, B b) {
  float sum = 0;
  for (size_t block = 0; block < count; block += 32) {
    float chain[2] = {0, 0};
    for (size_t k = block; k < block + 32; ++k) {
      const bool exists = k < count;
      chain[k % 2] = std::fma(exists ? a(k) : 0.0f, exists ? b(k) : 0.0f, chain[k % 2]);
    }
    sum += chain[0] + chain[1];
  }
  return sum;
}

std::vector<uint16_t> Emulate(const Case& c) {
  std::vector<std::vector<float>> keys, values;
  for (const auto& key : c.key) keys.push_back(Stored(key, c.type, c.key_scale));
  for (const auto& value : c.value) values.push_back(Stored(value, c.type, c.value_scale));
  const float scale = Rsqrt(static_cast<float>(c.head_dim));
  std::vector<uint16_t> out;
  for (size_t row = 0; row < c.queries.size(); ++row) {
    const std::vector<float> query = Stored(c.queries[row], WeightType::kBf16, 1);
    std::vector<float> p(static_cast<size_t>(c.last_keys[row]) + 1);
    for (size_t j = 0; j < p.size(); ++j) {
      p[j] = BlockRule(
          query.size(), [&](size_t k) { return query[k]; }, [&](size_t k) { return keys[j][k]; });
      p[j] = (p[j] * scale) * c.key_scale;
    }
    const float max = *std::max_element(p.begin(), p.end());
    float lanes[16] = {};
    for (size_t j = 0; j < p.size(); ++j) {
      p[j] = Exp(p[j] - max);
      lanes[j % 16] += p[j];
      p[j] = F32FromBf16(Bf16FromF32(p[j]));
    }
    for (const size_t width : {8u, 4u, 2u, 1u}) {
      for (size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    }
    for (size_t d = 0; d < query.size(); ++d) {
      const float sum = BlockRule(
          p.size(), [&](size_t j) { return p[j]; }, [&](size_t j) { return values[j][d]; });
      out.push_back(Bf16FromF32((sum / lanes[0]) * c.value_scale));
    }
  }
  return out;
}

class Attention : public ::testing::TestWithParam<WeightType> {};

TEST_P(Attention, AllInstructionSetsGiveTheSameBits) {
  const FpEnv env;
  for (const int64_t head_dim : {2, 20, 64, 80, 128}) {
    for (const int64_t keys : {1, 5, 32, 33, 100}) {
      for (const int64_t rows : {1, 3, 9, 70}) {
        const Case one = MakeCase(GetParam(), head_dim, keys, rows);
        const auto want = RunAttention(internal::kServingReference.attention, one);
        for (const auto& [name, unused, serving] : Twins()) {
          ExpectSameBits(RunAttention(serving->attention, one), want, name + " " + one.Text());
        }
      }
    }
  }
}

TEST_P(Attention, IsWhatItsOrderOfOperationsSays) {
  const FpEnv env;
  for (const int64_t head_dim : {2, 20, 64, 80}) {
    for (const int64_t keys : {1, 33, 70}) {
      const Case one = MakeCase(GetParam(), head_dim, keys, 3);
      ExpectSameBits(RunAttention(internal::kServingReference.attention, one), Emulate(one),
                     one.Text());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Caches, Attention, ::testing::Values(WeightType::kBf16, WeightType::kFp8),
                         [](const auto& one) {
                           return one.param == WeightType::kFp8 ? "Fp8" : "Bf16";
                         });

TEST(AttentionOfOneKey, IsItsValueAsStored) {
  const FpEnv env;
  const Case plain = MakeCase(WeightType::kBf16, 64, 1, 1);
  ExpectSameBits(RunAttention(internal::kServingReference.attention, plain), plain.value[0],
                 "BF16");
  const Case coded = MakeCase(WeightType::kFp8, 64, 1, 1);
  std::vector<uint16_t> want;
  for (const float code : Stored(coded.value[0], WeightType::kFp8, coded.value_scale)) {
    want.push_back(Bf16FromF32(code * coded.value_scale));
  }
  ExpectSameBits(RunAttention(internal::kServingReference.attention, coded), want, "FP8");
}

TEST(KvLayout, AnFp8CacheIsHalfAsLarge) {
  for (const int64_t head_dim : {2, 20, 64, 80, 128}) {
    EXPECT_EQ(KvLayout({head_dim, WeightType::kFp8}).bytes() * 2, KvLayout({head_dim}).bytes());
  }
}

}  // namespace
}  // namespace octavo
