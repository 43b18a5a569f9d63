// Paged attention against F64 arithmetic, and bit for bit against itself: a query's result depends
// on nothing but the query, its position and what the cache holds up to there.

#include "kernels/cuda/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/units.h"
#include "gtest/gtest.h"
#include "kernels/cuda/attention/tile.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

struct Shape {
  int64_t group, kv_heads, head_dim;
  bool fp8;
};

// What a sequence's cache holds, and its queries at every position.
struct Sequence {
  int64_t length = 0;
  std::vector<float> keys, values, queries;  // [length][kv_heads][head_dim]; queries [..][heads]
};

float Number(const Shape& shape, float x) {
  return shape.fp8 ? F32FromFp8(Fp8FromF32(x)) : F32FromBf16(Bf16FromF32(x));
}

Sequence MakeSequence(const Shape& shape, int64_t length, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  Sequence sequence{length, {}, {}, {}};
  const int64_t width = length * shape.kv_heads * shape.head_dim;
  for (int64_t i = 0; i < width; ++i) {
    sequence.keys.push_back(Number(shape, normal(random)));
    sequence.values.push_back(Number(shape, normal(random)));
  }
  for (int64_t i = 0; i < width * shape.group; ++i) {
    sequence.queries.push_back(F32FromBf16(Bf16FromF32(2 * normal(random))));
  }
  return sequence;
}

// A part of a sequence that one launch computes. Keys from `position + count` on do not exist yet.
struct Part {
  const Sequence* sequence;
  int64_t position;
  int64_t count;
};

constexpr float kScale = 0.11f;
constexpr float kKeyScale = 0.75f;
constexpr float kValueScale = 1.5f;

// Runs one launch over the parts, pages dealt out at random; what was never written is NaN.
// Returns [part][token * heads * head_dim].
std::vector<std::vector<uint16_t>> Attend(const Shape& shape, const std::vector<Part>& parts,
                                          int64_t blocks_wanted, uint32_t seed) {
  KvPages pages{nullptr, shape.kv_heads, shape.head_dim, shape.fp8};
  std::vector<AttentionSpan> spans;
  int64_t page_count = 0, stride = 1, tokens = 0;
  for (const Part& part : parts) {
    spans.push_back({static_cast<int32_t>(tokens), static_cast<int32_t>(part.count),
                     static_cast<int32_t>(part.position)});
    const int64_t needed = CeilDiv(part.position + part.count, kPageTokens);
    stride = std::max(stride, needed);
    page_count += needed;
    tokens += part.count;
  }
  std::vector<int32_t> free(static_cast<size_t>(page_count + 3));
  std::iota(free.begin(), free.end(), 0);
  std::mt19937 random(seed);
  std::shuffle(free.begin(), free.end(), random);
  const Unified<std::byte> memory(free.size() * static_cast<size_t>(pages.page_bytes()));
  pages.data = memory.data();
  for (size_t i = 0; i < memory.size(); ++i)
    memory[i] = std::byte{shape.fp8 ? uint8_t{0x7f} : uint8_t{0xff}};

  const Unified<int32_t> tables(parts.size() * static_cast<size_t>(stride));
  std::fill(tables.span().begin(), tables.span().end(), -1);
  const int64_t row = shape.kv_heads * shape.group * shape.head_dim;
  const Unified<uint16_t> queries(static_cast<size_t>(tokens * row));
  size_t next_query = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = parts[i];
    for (int64_t key = 0; key < part.position + part.count; ++key) {
      int32_t& page =
          tables[i * static_cast<size_t>(stride) + static_cast<size_t>(key / kPageTokens)];
      if (page < 0) {
        page = free.back();
        free.pop_back();
      }
      for (int64_t head = 0; head < shape.kv_heads; ++head) {
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          const auto from = static_cast<size_t>((key * shape.kv_heads + head) * shape.head_dim + d);
          for (const bool value : {false, true}) {
            const float x = value ? part.sequence->values[from] : part.sequence->keys[from];
            std::byte* to = memory.data() + pages.Offset(page, head, value) +
                            (key % kPageTokens * shape.head_dim + d) * pages.element_bytes();
            const uint16_t bits = shape.fp8 ? Fp8FromF32(x) : Bf16FromF32(x);
            std::memcpy(to, &bits, static_cast<size_t>(pages.element_bytes()));
          }
        }
      }
    }
    for (int64_t j = part.position * row; j < (part.position + part.count) * row; ++j) {
      queries[next_query++] = Bf16FromF32(part.sequence->queries[static_cast<size_t>(j)]);
    }
  }

  const AttentionPlan plan = PlanAttention(spans, shape.group, shape.kv_heads, blocks_wanted);
  const Unified<AttentionSpan> device_spans{std::span<const AttentionSpan>(spans)};
  const Unified<AttentionItem> items{std::span<const AttentionItem>(plan.items)};
  const Unified<AttentionMerge> merges{std::span<const AttentionMerge>(plan.merges)};
  const Unified<float> scratch(
      static_cast<size_t>(plan.slots * AttentionSlotFloats(shape.kv_heads)));
  const Unified<uint16_t> out(static_cast<size_t>(tokens * row));
  Launch(
      AttentionCall{pages, shape.group, queries.data(), device_spans.data(), tables.data(), stride,
                    items.data(), static_cast<int32_t>(plan.items.size()), merges.data(),
                    static_cast<int32_t>(plan.merges.size()), kScale, shape.fp8 ? kKeyScale : 1.0f,
                    shape.fp8 ? kValueScale : 1.0f, scratch.data(), out.data()},
      nullptr);
  EXPECT_TRUE(simt::Finish());
  EXPECT_TRUE(out.Intact() && scratch.Intact());
  std::vector<std::vector<uint16_t>> results;
  for (const AttentionSpan& span : spans) {
    const uint16_t* begin = out.data() + span.first * row;
    results.emplace_back(begin, begin + span.count * row);
  }
  return results;
}

// Largest error over what the contract's roundings allow, for one query and head.
double ErrorRatio(const Shape& shape, const Sequence& sequence, int64_t t, int64_t head,
                  const uint16_t* result) {
  const int64_t kv_head = head / shape.group;
  const float* query = &sequence.queries[static_cast<size_t>(
      (t * shape.kv_heads * shape.group + head) * shape.head_dim)];
  std::vector<double> p;
  double max = -INFINITY;
  const auto at = [&](int64_t key, int64_t d) {
    return static_cast<size_t>((key * shape.kv_heads + kv_head) * shape.head_dim + d);
  };
  for (int64_t key = 0; key <= t; ++key) {
    double s = 0;
    for (int64_t d = 0; d < shape.head_dim; ++d) s += double{query[d]} * sequence.keys[at(key, d)];
    p.push_back(s * kScale * (shape.fp8 ? kKeyScale : 1.0f));
    max = std::max(max, p.back());
  }
  double denominator = 0;
  for (double& x : p) denominator += x = std::exp(x - max);
  double worst = 0;
  for (int64_t d = 0; d < shape.head_dim; ++d) {
    double sum = 0, size = 0;
    for (int64_t key = 0; key <= t; ++key) {
      const double term = p[static_cast<size_t>(key)] / denominator * sequence.values[at(key, d)];
      sum += term;
      size += std::abs(term);
    }
    const double scale = shape.fp8 ? kValueScale : 1.0f;
    // P is rounded to BF16 (2^-8), the result too; 2^-16 for F32 sums and Exp of sums.
    const double allowed = scale * (size * (0x1p-8 + 0x1p-16) + std::abs(sum) * 0x1p-8) + 1e-30;
    if (!std::isfinite(F32FromBf16(result[d]))) return INFINITY;
    worst = std::max(worst, std::abs(F32FromBf16(result[d]) - sum * scale) / allowed);
  }
  return worst;
}

void ExpectClose(const Shape& shape, const Part& part, const std::vector<uint16_t>& result) {
  const int64_t heads = shape.kv_heads * shape.group;
  for (int64_t token = 0; token < part.count; ++token) {
    for (int64_t head = 0; head < heads; ++head) {
      const double ratio =
          ErrorRatio(shape, *part.sequence, part.position + token, head,
                     &result[static_cast<size_t>((token * heads + head) * shape.head_dim)]);
      ASSERT_LE(ratio, 1.0) << "position " << part.position + token << ", head " << head;
    }
  }
}

const Shape kShapes[] = {
    {1, 1, 16, false}, {3, 2, 64, false}, {6, 1, 128, false}, {3, 1, 64, true}, {20, 1, 80, true}};

std::string Describe(const Shape& shape) {
  return std::to_string(shape.group) + " heads of each of " + std::to_string(shape.kv_heads) +
         ", " + std::to_string(shape.head_dim) + (shape.fp8 ? " FP8" : " BF16");
}

TEST(CudaAttention, CloseToTheTruth) {
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Describe(shape));
    const Sequence a = MakeSequence(shape, 150, seed++);
    const Sequence b = MakeSequence(shape, 70, seed++);
    const std::vector<Part> parts = {{&a, 0, 40}, {&b, 0, 1}, {&a, 127, 23}, {&b, 63, 2}};
    const auto results = Attend(shape, parts, 0, seed++);
    for (size_t i = 0; i < parts.size(); ++i) ExpectClose(shape, parts[i], results[i]);
  }
}

// Every token of `sequence` that `results` hold, against `expected` from another launch.
void ExpectSameBits(const Shape& shape, const Part& part, const std::vector<uint16_t>& result,
                    const Part& whole, const std::vector<uint16_t>& expected) {
  const int64_t row = shape.kv_heads * shape.group * shape.head_dim;
  ASSERT_EQ(part.sequence, whole.sequence);
  const auto* from = expected.data() + (part.position - whole.position) * row;
  for (int64_t i = 0; i < part.count * row; ++i) {
    ASSERT_EQ(result[static_cast<size_t>(i)], from[i])
        << part.position + i / row << ", " << i % row;
  }
}

TEST(CudaAttention, BitsDoNotDependOnChunksBatchOrPages) {
  uint32_t seed = 40;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Describe(shape));
    const Sequence a = MakeSequence(shape, 90, seed++);
    const Sequence b = MakeSequence(shape, 33, seed++);
    const Part whole{&a, 0, 90};
    const auto expected = Attend(shape, {whole}, 0, seed++)[0];
    const std::vector<std::vector<Part>> launches = {
        {{&b, 30, 1}, {&a, 0, 7}, {&b, 0, 33}},
        {{&a, 7, 57}, {&b, 31, 2}},
        {{&a, 64, 1}, {&a, 65, 1}, {&a, 66, 24}},
    };
    for (const auto& parts : launches) {
      const auto results = Attend(shape, parts, 0, seed++);
      for (size_t i = 0; i < parts.size(); ++i) {
        if (parts[i].sequence == &a) {
          ExpectSameBits(shape, parts[i], results[i], whole, expected);
        }
      }
    }
  }
}

TEST(CudaAttention, BitsDoNotDependOnWhoComputesTheSplits) {
  for (const Shape& shape : {Shape{4, 1, 64, false}, Shape{2, 1, 32, true}}) {
    SCOPED_TRACE(Describe(shape));
    const Sequence a = MakeSequence(shape, 1100, 7);
    const Part whole{&a, 1000, 40};  // rows on both sides of the split at 1,024
    const auto together = Attend(shape, {whole}, 0, 8)[0];
    ExpectClose(shape, whole, together);
    for (const std::vector<Part>& parts :
         {std::vector<Part>{{&a, 1000, 40}}, std::vector<Part>{{&a, 1023, 1}, {&a, 1024, 1}},
          std::vector<Part>{{&a, 1022, 3}, {&a, 3, 1}}}) {
      const auto results = Attend(shape, parts, 1000, 9);
      ExpectSameBits(shape, parts[0], results[0], whole, together);
    }
  }
}

TEST(CudaAttention, PlanCoversEveryRowOnce) {
  const std::vector<AttentionSpan> spans = {{0, 1, 5000}, {1, 100, 0}, {101, 7, 511}};
  for (const int64_t wanted : {0, 1000}) {
    const AttentionPlan plan = PlanAttention(spans, 6, 8, wanted);
    std::set<std::pair<int32_t, int32_t>> whole;
    std::vector<int> slots(static_cast<size_t>(plan.slots), 0);
    for (const AttentionItem& item : plan.items) {
      if (item.partial < 0) {
        EXPECT_EQ(item.split_begin, 0);
        EXPECT_TRUE(whole.insert({item.span, item.row_begin}).second);
      } else {
        EXPECT_EQ(item.split_end, item.split_begin + 1);
        ++slots[static_cast<size_t>(item.partial)];
      }
    }
    for (const AttentionMerge& merge : plan.merges) {
      EXPECT_TRUE(whole.insert({merge.span, merge.row_begin}).second);
    }
    for (const int uses : slots) EXPECT_EQ(uses, 1);
    size_t expected = 0;
    for (const AttentionSpan& span : spans) {
      expected += static_cast<size_t>(CeilDiv(span.count * 6, kAttentionRows));
    }
    EXPECT_EQ(whole.size(), expected);
    EXPECT_EQ(plan.merges.empty(), wanted == 0);
  }
}

TEST(CudaAttention, RowsOfAMatrixLieInDifferentBanks) {
  using Tile = AttentionTile<64>;
  std::set<int> offsets;
  for (int chunk = 0; chunk < Tile::kChunks; ++chunk) {
    for (int begin = 0; begin < kAttentionTile; begin += 8) {
      std::set<int> banks;
      for (int row = begin; row < begin + 8; ++row) {
        banks.insert(Tile::Offset(row, chunk) % 128);
        offsets.insert(Tile::Offset(row, chunk));
      }
      EXPECT_EQ(banks.size(), 8u);
    }
  }
  EXPECT_EQ(offsets.size(), static_cast<size_t>(Tile::kBytes / 16));
}

}  // namespace
}  // namespace octavo::cuda
