// Rows of an embedding on a GPU. Runs on the host twin of simt.h everywhere and, in
// octavo-gpu-check, on a GPU.

#include "kernels/cuda/embedding/embedding.h"

#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

constexpr int32_t kVocabulary = 50;

// Ids [begin, end) of a vocabulary of 50, at an offset that may spoil alignment.
struct Embedding {
  Embedding(int64_t c, int32_t b, int32_t e, size_t shift)
      : columns(static_cast<size_t>(c)),
        begin(b),
        end(e),
        memory(static_cast<size_t>(e - b) * columns + shift),
        table(memory.data() + shift),
        bad(1) {
    bad[0] = 0;
    std::mt19937 random(3);
    for (uint16_t& bits : memory.span()) bits = static_cast<uint16_t>(random());  // NaNs as well
  }
  Unified<uint16_t> Gather(const std::vector<int32_t>& tokens) const {
    const Unified<int32_t> ids{std::span<const int32_t>(tokens)};
    Unified<uint16_t> out(tokens.size() * columns);
    Launch(
        EmbedTokens{ids.data(), static_cast<int64_t>(tokens.size()), static_cast<int64_t>(columns),
                    table, begin, end, kVocabulary, out.data(), bad.data()},
        nullptr);
    EXPECT_TRUE(simt::Finish());
    EXPECT_TRUE(out.Intact() && memory.Intact() && ids.Intact() && bad.Intact());
    for (size_t i = 0; i < out.size(); ++i) {
      const int32_t id = tokens[i / columns];
      const bool held = id >= begin && id < end;
      const uint16_t expected =
          held ? table[static_cast<size_t>(id - begin) * columns + i % columns] : uint16_t{0};
      if (out[i] != expected) ADD_FAILURE() << "row " << i / columns << ", " << i % columns;
    }
    return out;
  }

  size_t columns;
  int32_t begin, end;
  Unified<uint16_t> memory;
  uint16_t* table;
  Unified<uint32_t> bad;
};

TEST(CudaEmbedding, RowsById) {
  for (const int64_t columns : {1, 7, 64, 1023, 1024, 1025, 2056}) {
    for (const size_t shift : {size_t{0}, size_t{3}}) {
      const Embedding embedding(columns, 0, kVocabulary, shift);
      embedding.Gather({49, 0, 17, 17, 1, 48, 0});
      EXPECT_EQ(embedding.bad[0], 0u);
    }
  }
}

TEST(CudaEmbedding, PartsOfTheVocabularyMerge) {
  const std::vector<int32_t> tokens = {0, 19, 20, 21, 34, 35, 49};
  const Embedding whole(100, 0, kVocabulary, 0);
  const Embedding parts[] = {{100, 0, 20, 0}, {100, 20, 35, 0}, {100, 35, 50, 0}};
  for (const Embedding& part : parts) {
    for (size_t i = 0; i < part.memory.size(); ++i) {
      part.memory[i] = whole.memory[static_cast<size_t>(part.begin) * 100 + i];
    }
  }
  const Unified<uint16_t> expected = whole.Gather(tokens);
  std::vector<uint16_t> merged(expected.size());
  for (const Embedding& part : parts) {
    const Unified<uint16_t> rows = part.Gather(tokens);
    for (size_t i = 0; i < merged.size(); ++i) merged[i] |= rows[i];
    EXPECT_EQ(part.bad[0], 0u);
  }
  for (size_t i = 0; i < merged.size(); ++i) ASSERT_EQ(merged[i], expected[i]) << i;
}

TEST(CudaEmbedding, BadIdsReadNothingAndAreTold) {
  constexpr int32_t kLeast = std::numeric_limits<int32_t>::min();
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  for (const int32_t id : {-1, kVocabulary, kVocabulary + 1, kLeast, kMost}) {
    const Embedding embedding(1100, 0, kVocabulary, 0);
    embedding.Gather({3, id, 5});
    EXPECT_EQ(embedding.bad[0], 2u) << id;
    embedding.Gather({1, 2});
    EXPECT_EQ(embedding.bad[0], 2u);
    embedding.Gather({id, 1, 2, id, 49});
    EXPECT_EQ(embedding.bad[0], 4u);
  }
  const Embedding part(16, 40, 50, 0);  // the last rank's
  part.Gather({50, 39, 49});
  EXPECT_EQ(part.bad[0], 1u);
}

TEST(CudaEmbedding, NoRowsIsNoWork) {
  Launch(EmbedTokens{.columns = 64, .end = 1, .vocabulary = 1}, nullptr);
  Launch(EmbedTokens{.rows = 3, .end = 1, .vocabulary = 1}, nullptr);
  EXPECT_TRUE(simt::Finish());
}

}  // namespace
}  // namespace octavo::cuda
