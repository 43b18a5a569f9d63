// Rotation and the cache's pages on a GPU against what the CPU's runner does, bit for bit. Runs on
// the host twin of simt.h everywhere and, in octavo-gpu-check, on a GPU.

#include "kernels/cuda/rope/rope.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/activation.h"
#include "kernels/norm.h"
#include "kernels/quantize_activation.h"
#include "kernels/rope.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

constexpr int64_t kPositions = 70;
constexpr int64_t kPages = 3;

struct Shape {
  int64_t tokens, kv_heads, group, head_dim;
  bool fp8, fused, normed;
  float clip;
};
constexpr Shape kShapes[] = {
    {1, 1, 1, 16, false, false, false, 0},  {3, 2, 1, 32, true, true, false, 0.7f},
    {2, 1, 3, 48, false, true, true, 0},    {5, 2, 4, 64, true, false, true, 0},
    {2, 3, 6, 80, true, true, false, 0},    {4, 2, 6, 128, false, true, false, 0.7f},
    {3, 1, 7, 128, true, true, true, 0.7f}, {2, 1, 2, 256, false, false, true, 0},
    {2, 2, 8, 512, true, true, false, 0},
};

std::string Describe(const Shape& s) {
  return std::to_string(s.tokens) + " tokens, " + std::to_string(s.kv_heads) + " x " +
         std::to_string(s.group) + " heads of " + std::to_string(s.head_dim) +
         (s.fp8 ? ", FP8" : ", BF16") + (s.fused ? ", fused" : "") + (s.normed ? ", normed" : "") +
         (s.clip > 0 ? ", clipped" : "");
}

size_t Bytes(const Shape& shape) {
  const KvPages pages{nullptr, shape.kv_heads, shape.head_dim, shape.fp8};
  return static_cast<size_t>(kPages * pages.page_bytes());
}

std::vector<uint16_t> Normal(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 0.9f);
  std::vector<uint16_t> values(count);
  for (uint16_t& bits : values) bits = Bf16FromF32(normal(random));
  for (size_t i = 5; i < count; i += 11) values[i] = static_cast<uint16_t>(random() & 0x81ff);
  return values;
}

Unified<uint16_t> Shared(const std::vector<uint16_t>& values) {
  return Unified<uint16_t>{std::span<const uint16_t>(values)};
}

// Tokens of a step, and the pages they go into.
struct Step {
  Step(const Shape& s, uint32_t seed) : Step(s, std::mt19937(seed)) {}
  Step(const Shape& s, std::mt19937 random)
      : shape(s),
        key_width(s.kv_heads * s.head_dim),
        query_width(key_width * s.group),
        stride(s.fused ? query_width + 2 * key_width + 6 : 0),
        rows(Shared(Normal(static_cast<size_t>(s.tokens) * RowsWidth(), random))),
        query_norm(Shared(Normal(static_cast<size_t>(s.head_dim), random))),
        key_norm(Shared(Normal(static_cast<size_t>(s.head_dim), random))),
        cos(static_cast<size_t>(kPositions * s.head_dim / 2)),
        sin(cos.size()),
        positions(static_cast<size_t>(s.tokens)),
        slots(static_cast<size_t>(s.tokens)),
        pages(Bytes(s)) {
    std::vector<float> frequencies(static_cast<size_t>(s.head_dim / 2));
    RopeFrequencies({.theta = 10000, .head_dim = s.head_dim}, frequencies.data());
    for (int64_t position = 0; position < kPositions; ++position) {
      RopeRow(frequencies.data(), s.head_dim, position, cos.data() + position * s.head_dim / 2,
              sin.data() + position * s.head_dim / 2);
    }
    std::vector<int32_t> all(kPages * kPageTokens);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    for (size_t token = 0; token < slots.size(); ++token) {
      slots[token] = all[token];
      positions[token] = static_cast<int32_t>(random() % kPositions);
    }
    positions[0] = kPositions - 1;
  }
  size_t RowsWidth() const {
    return static_cast<size_t>(stride > 0 ? stride : query_width + 2 * key_width);
  }
  uint16_t* Query() const { return rows.data(); }
  uint16_t* Key() const { return Query() + (stride > 0 ? 1 : shape.tokens) * query_width; }
  uint16_t* Value() const { return Key() + (stride > 0 ? 1 : shape.tokens) * key_width; }
  int64_t QueryStride() const { return stride > 0 ? stride : query_width; }
  int64_t KeyStride() const { return stride > 0 ? stride : key_width; }
  const uint16_t* QueryNorm() const { return queries_normed ? query_norm.data() : nullptr; }
  const uint16_t* KeyNorm() const { return keys_normed ? key_norm.data() : nullptr; }
  KvPages Pages() const { return {pages.data(), shape.kv_heads, shape.head_dim, shape.fp8}; }

  RotateAndStore Call() const {
    RotateAndStore call;
    call.query = Query();
    call.key = Key();
    call.value = Value();
    call.query_stride = QueryStride();
    call.key_stride = call.value_stride = KeyStride();
    call.tokens = shape.tokens;
    call.queries_per_head = shape.group;
    call.positions = positions.data();
    call.slots = slots.data();
    call.cos = cos.data();
    call.sin = sin.data();
    call.clip = shape.clip;
    call.query_norm = QueryNorm();
    call.key_norm = KeyNorm();
    call.eps = 1e-6f;
    call.pages = Pages();
    call.key_scale = key_scale;
    call.value_scale = value_scale;
    return call;
  }
  bool Intact() const {
    return rows.Intact() && pages.Intact() && cos.Intact() && sin.Intact() && slots.Intact() &&
           positions.Intact() && query_norm.Intact() && key_norm.Intact();
  }

  Shape shape;
  bool queries_normed = shape.normed, keys_normed = shape.normed;
  float key_scale = 0.0061f;  // some keys saturate
  float value_scale = 0.073f;
  int64_t key_width, query_width, stride;
  Unified<uint16_t> rows, query_norm, key_norm, cos, sin;
  Unified<int32_t> positions, slots;
  Unified<std::byte> pages;
};

// The step as the CPU's runner does it: rows and pages as they are to be afterwards.
struct Expected {
  std::vector<uint16_t> rows;
  std::vector<std::byte> pages;
};

using Head = std::vector<uint16_t>;

Head Ready(const Step& step, const uint16_t* from, const uint16_t* norm, int64_t position) {
  const int64_t dim = step.shape.head_dim;
  Head head(from, from + dim);
  if (step.shape.clip > 0) {
    ActivationOpsFor(Isa::kReference).clip(head.data(), dim, step.shape.clip);
  }
  if (position < 0) return head;  // a value
  if (norm != nullptr) {
    NormOpsFor(Isa::kReference).rms_norm(head.data(), norm, dim, 1e-6f, head.data());
  }
  RopeOpsFor(Isa::kReference)
      .rotate(head.data(), step.cos.data() + position * dim / 2,
              step.sin.data() + position * dim / 2, dim);
  return head;
}

// False where the head is not finite.
bool Store(const Step& step, const Head& head, int64_t slot, int64_t kv_head, bool value,
           std::vector<std::byte>* pages) {
  const KvPages layout = step.Pages();
  const int64_t at = layout.Offset(slot / 32, kv_head, value) +
                     slot % 32 * layout.head_dim * layout.element_bytes();
  const QuantizeActivationOps& ops = QuantizeActivationOpsFor(Isa::kReference);
  if (slot >= 0 && !layout.fp8) {
    std::memcpy(pages->data() + at, head.data(), head.size() * 2);
  } else if (slot >= 0) {
    ops.fp8_divide(head.data(), head.size(), value ? step.value_scale : step.key_scale,
                   reinterpret_cast<uint8_t*>(pages->data() + at));
  }
  return IsFiniteAmax(ops.amax(head.data(), head.size()));
}

Expected AsOnCpu(const Step& step) {
  const Shape& s = step.shape;
  Expected out{{step.rows.data(), step.rows.data() + step.rows.size()},
               {step.pages.data(), step.pages.data() + step.pages.size()}};
  for (int64_t token = 0; token < s.tokens; ++token) {
    const int64_t position = step.positions[static_cast<size_t>(token)];
    const int64_t slot = step.slots[static_cast<size_t>(token)];
    for (int64_t head = 0; head < s.kv_heads; ++head) {
      const int64_t at = token * step.KeyStride() + head * s.head_dim;
      const Head key = Ready(step, step.Key() + at, step.KeyNorm(), position);
      const Head value = Ready(step, step.Value() + at, nullptr, -1);
      bool finite = Store(step, key, slot, head, false, &out.pages);
      finite = Store(step, value, slot, head, true, &out.pages) && finite;
      for (int64_t i = 0; i < s.group; ++i) {
        const int64_t query_at = token * step.QueryStride() + (head * s.group + i) * s.head_dim;
        Head query = Ready(step, step.Query() + query_at, step.QueryNorm(), position);
        if (s.fp8 && !finite) std::fill(query.begin(), query.end(), uint16_t{0x7fc0});
        std::copy(query.begin(), query.end(), out.rows.begin() + query_at);
      }
    }
  }
  return out;
}

void ExpectIs(const Step& step, const Expected& expected) {
  ASSERT_TRUE(step.Intact());
  for (size_t i = 0; i < expected.rows.size(); ++i) {
    ASSERT_EQ(step.rows[i], expected.rows[i]) << "element " << i << " of the tokens' rows";
  }
  for (size_t i = 0; i < expected.pages.size(); ++i) {
    ASSERT_EQ(step.pages[i], expected.pages[i]) << "byte " << i << " of the pages";
  }
}

TEST(CudaRope, StepsOfEveryShape) {
  const FpEnv environment;
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Describe(shape));
    const Step step(shape, seed++);
    const Expected expected = AsOnCpu(step);
    Launch(step.Call(), nullptr);
    ASSERT_TRUE(simt::Finish());
    ExpectIs(step, expected);
  }
}

TEST(CudaRope, OnlyQueriesOrOnlyKeysNormed) {
  const FpEnv environment;
  for (const bool queries : {false, true}) {
    Step step({2, 2, 2, 64, queries, true, true, 0}, 30);
    (queries ? step.keys_normed : step.queries_normed) = false;
    const Expected expected = AsOnCpu(step);
    Launch(step.Call(), nullptr);
    ASSERT_TRUE(simt::Finish());
    ExpectIs(step, expected);
  }
}

// More tokens than a page has, at odd 4-byte offsets.
TEST(CudaRope, ManyTokens) {
  const FpEnv environment;
  for (const bool fp8 : {false, true}) {
    const Step step({kPages * kPageTokens, 2, 2, 64, fp8, true, false, 1.5f}, 40);
    const Expected expected = AsOnCpu(step);
    Launch(step.Call(), nullptr);
    ASSERT_TRUE(simt::Finish());
    ExpectIs(step, expected);
  }
}

TEST(CudaRope, TokensBelowZeroAreNotStored) {
  const FpEnv environment;
  for (const bool fp8 : {false, true}) {
    const Step step({4, 2, 3, 96, fp8, false, false, 0}, 50);
    step.slots[1] = -1;
    step.slots[3] = -7;
    const Expected expected = AsOnCpu(step);
    Launch(step.Call(), nullptr);
    ASSERT_TRUE(simt::Finish());
    ExpectIs(step, expected);
  }
}

// Scales for which x * F32(1 / scale) would make another code of some x.
TEST(CudaRope, CodesComeOfATrueDivision) {
  const FpEnv environment;
  std::mt19937 random(80);
  int found = 0;
  for (int i = 0; i < 20000 && found < 5; ++i) {
    const uint16_t bits = Bf16FromF32(0.5f + static_cast<float>(random() % 128) / 256.0f);
    const float x = F32FromBf16(bits);
    const float scale = x / static_cast<float>(17 + random() % 8 * 2);  // near a tie
    if (Fp8FromF32(x / scale) == Fp8FromF32(x * (1.0f / scale))) continue;
    ++found;
    Step step({1, 1, 1, 16, true, false, false, 0}, 81);
    step.key_scale = step.value_scale = scale;
    step.positions[0] = 0;  // where rotation changes nothing
    step.Key()[7] = step.Value()[11] = bits;
    const Expected expected = AsOnCpu(step);
    Launch(step.Call(), nullptr);
    ASSERT_TRUE(simt::Finish());
    ExpectIs(step, expected);
  }
  EXPECT_EQ(found, 5);
}

// What is no number in a key or a value comes to the queries of its head and to no other's.
TEST(CudaRope, NonFiniteKeysAndValuesOfAnFp8CacheSpoilTheirQueries) {
  const FpEnv environment;
  for (const uint16_t bad : {0x7f80, 0xff80, 0x7fc0, 0xffff}) {
    for (const int64_t element : {0, 31, 32, 63}) {
      for (const bool value : {false, true}) {
        for (const bool normed : {false, true}) {
          // Another number of tokens is another order of threads on the host twin.
          const Step step({3 + element % 5, 2, 3, 64, true, true, normed, 0}, 60);
          (value ? step.Value() : step.Key())[step.KeyStride() + 64 + element] = bad;
          const Expected expected = AsOnCpu(step);
          Launch(step.Call(), nullptr);
          ASSERT_TRUE(simt::Finish());
          const size_t spoiled = static_cast<size_t>(step.QueryStride() + 3 * 64);
          for (size_t i = 0; i < expected.rows.size(); ++i) {
            const bool is_key_or_value = (i % static_cast<size_t>(step.stride)) >= 384;
            if (i >= spoiled && i < spoiled + 3 * 64) {
              ASSERT_EQ(step.rows[i], 0x7fc0) << i;
            } else if (!is_key_or_value) {
              ASSERT_EQ(step.rows[i], expected.rows[i]) << i;
            }
          }
        }
      }
    }
  }
}

// An infinity within a clip's bounds afterwards is as good as any number.
TEST(CudaRope, ClipBringsInfinitiesBack) {
  const FpEnv environment;
  const Step step({2, 1, 2, 32, true, true, false, 4}, 70);
  step.Key()[3] = 0x7f80;
  step.Value()[31] = 0xff80;
  step.Query()[9] = 0xff80;
  const Expected expected = AsOnCpu(step);
  Launch(step.Call(), nullptr);
  ASSERT_TRUE(simt::Finish());
  ExpectIs(step, expected);
}

TEST(CudaRope, NoTokensIsNoWork) {
  RotateAndStore call;
  call.pages = {nullptr, 2, 64, true};
  Launch(call, nullptr);
  call.pages.fp8 = false;
  Launch(call, nullptr);
  EXPECT_TRUE(simt::Finish());
}

}  // namespace
}  // namespace octavo::cuda
