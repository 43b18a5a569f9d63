#include "core/checkpoint/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/core/checkpoint/gguf_maker.h"
#include "tests/fakes/memory_store.h"

namespace octavo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::StatusOr<GgufFile> Parse(const std::string& bytes) {
  absl::StatusOr<std::optional<GgufFile>> file = ParseGguf(bytes, bytes.size(), "f.gguf");
  if (!file.ok()) return file.status();
  if (!file->has_value()) return absl::InternalError("wants more than the whole file");
  return **file;
}

GgufMaker Small() {
  GgufMaker maker;
  maker.U32("u", 7);
  maker.F32("f", 0.5f);
  maker.Bool("b", 1);
  maker.String("s", "text");
  maker.Strings("ss", {"a", "", "c"});
  maker.I32s("is", {1, -2});
  maker.Tensor("t", {2, 3}, 0, std::string(24, 'x'));
  maker.Tensor("q", {32, 1}, 3, std::string(20, 'y'));
  return maker;
}

TEST(ParseGgufTest, ReadsMetadataAndTable) {
  for (uint32_t version : {2u, 3u}) {
    const auto file = Parse(Small().File(version));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->version, version);
    EXPECT_EQ(**GgufInt(*file, "u"), 7);
    EXPECT_EQ(**GgufFloat(*file, "f"), 0.5);
    EXPECT_TRUE(**GgufBool(*file, "b"));
    EXPECT_EQ(**GgufString(*file, "s"), "text");
    EXPECT_THAT(**GgufStrings(*file, "ss"), ElementsAre("a", "", "c"));
    EXPECT_THAT(**GgufInts(*file, "is"), ElementsAre(1, -2));
    EXPECT_FALSE(GgufInt(*file, "none")->has_value());
    EXPECT_EQ(*GgufInts(*file, "none"), nullptr);
    EXPECT_FALSE(GgufInt(*file, "s").ok());
    EXPECT_FALSE(GgufStrings(*file, "is").ok());
    ASSERT_EQ(file->tensors.size(), 2u);
    EXPECT_THAT(file->tensors[0].shape, ElementsAre(3, 2));
    EXPECT_EQ(file->tensors[0].begin, file->data_begin);
    EXPECT_EQ(file->tensors[0].end - file->tensors[0].begin, 24u);
    EXPECT_EQ(file->tensors[1].begin, file->data_begin + 32);
    EXPECT_EQ(file->tensors[1].end, file->size);
  }
}

TEST(ParseGgufTest, AsksForMoreAtEveryCut) {
  const std::string bytes = Small().File();
  const size_t head = Small().Head().size();
  for (size_t cut = 0; cut < head; ++cut) {
    const auto file = ParseGguf(std::string_view(bytes).substr(0, cut), bytes.size(), "f");
    ASSERT_TRUE(file.ok()) << cut << file.status();
    EXPECT_FALSE(file->has_value()) << cut;
    // The same cut of a file that ends there is an error, never a crash.
    EXPECT_FALSE(ParseGguf(std::string_view(bytes).substr(0, cut), cut, "f").ok()) << cut;
  }
  EXPECT_TRUE((*ParseGguf(std::string_view(bytes).substr(0, head), bytes.size(), "f")).has_value());
}

struct Wrong {
  const char* what;
  Reason reason;
  std::string bytes;
};

template <typename Change>
std::string Made(const Change& change) {
  GgufMaker maker;
  change(maker);
  return maker.File();
}

std::vector<Wrong> WrongFiles() {
  using M = GgufMaker;
  const uint64_t huge = ~uint64_t{0} - 7;
  auto bad = Reason::kBadCheckpoint;
  return {
      {"not a GGUF", bad, "GGML" + Small().File().substr(4)},
      {"version 1", Reason::kUnsupported, Small().File(1)},
      {"version 4", Reason::kUnsupported, Small().File(4)},
      {"big-endian", Reason::kUnsupported, Small().File(0x03000000)},
      {"tensors do not fit", bad, "GGUF" + M::Raw(3u) + M::Raw(huge) + M::Raw(uint64_t{0})},
      {"keys do not fit", bad, "GGUF" + M::Raw(3u) + M::Raw(uint64_t{0}) + M::Raw(huge)},
      {"key of", bad, Made([&](M& m) { m.Key(std::string(70'000, 'k'), 4, M::Raw(1u)); })},
      {"file ends inside", bad,
       "GGUF" + M::Raw(3u) + M::Raw(uint64_t{0}) + M::Raw(uint64_t{1}) + M::Raw(uint64_t{15}) +
           "a key cut off"},
      {"string of", bad, Made([&](M& m) { m.Key("s", 8, M::Raw(huge)); })},
      {"unknown type 13", bad, Made([&](M& m) { m.Key("s", 13, M::Raw(huge)); })},
      {"neither 0 nor 1", bad, Made([&](M& m) { m.Bool("b", 2); })},
      {"integer overflows", bad, Made([&](M& m) { m.Key("u", 10, M::Raw(huge)); })},
      {"array of an unknown type", bad,
       Made([&](M& m) { m.Key("a", 9, M::Raw(9u) + M::Raw(uint64_t{0})); })},
      {"does not fit", bad, Made([&](M& m) { m.Key("a", 9, M::Raw(0u) + M::Raw(huge)); })},
      {"appears twice", bad, Made([&](M& m) { m.U32("u", 1), m.U32("u", 1); })},
      {"tensor appears twice", bad, Made([&](M& m) {
         m.TensorRow("t", {8}, 0, 0), m.TensorRow("t", {8}, 0, 32), m.Data(std::string(64, 'x'));
       })},
      {"tensor name of", bad,
       Made([&](M& m) { m.Tensor(std::string(65, 't'), {8}, 0, std::string(32, 'x')); })},
      {"0 axes", bad, Made([&](M& m) { m.TensorRow("t", {}, 0, 0); })},
      {"5 axes", bad, Made([&](M& m) {
         m.TensorRow("t", {1, 1, 1, 1, 1}, 0, 0);
       })},
      {"empty or overflows", bad, Made([&](M& m) { m.TensorRow("t", {0}, 0, 0); })},
      {"empty or overflows", bad, Made([&](M& m) {
         m.TensorRow("t", {1ull << 40, 1ull << 40}, 0, 0);
       })},
      {"do not suit F32", bad, Made([&](M& m) { m.TensorRow("t", {1ull << 62}, 0, 0); })},
      {"do not suit Q8_0", bad, Made([&](M& m) {
         m.TensorRow("t", {48, 2}, 8, 0);
       })},
      {"do not suit Q6_K", bad, Made([&](M& m) {
         m.TensorRow("t", {576, 1}, 14, 0);
       })},
      {"not aligned", bad,
       Made([&](M& m) { m.TensorRow("t", {1}, 0, 4), m.Data(std::string(64, 'x')); })},
      {"ends after the file", bad,
       Made([&](M& m) { m.TensorRow("t", {64}, 0, 0), m.Data(std::string(64, 'x')); })},
      {"ends after the file", bad,
       Made([&](M& m) { m.TensorRow("t", {1}, 0, huge / 32 * 32), m.Data(std::string(64, 'x')); })},
      {"overlaps", bad, Made([&](M& m) {
         m.TensorRow("t", {16}, 0, 0), m.TensorRow("s", {16}, 0, 32), m.Data(std::string(96, 'x'));
       })},
      {"general.alignment 48", bad, Made([&](M& m) { m.U32("general.alignment", 48); })},
      {"general.alignment 0", bad, Made([&](M& m) { m.U32("general.alignment", 0); })},
      {"no integer", bad, Made([&](M& m) { m.String("general.alignment", "32"); })},
      {"ends before its data", bad,
       [] {
         GgufMaker m;
         m.TensorRow("t", {1}, 99, 0);
         std::string bytes = m.Head();
         EXPECT_NE(bytes.size() % 32, 0u);
         return bytes;
       }()},
  };
}

TEST(ParseGgufTest, RefusesWhatIsMalformed) {
  for (const Wrong& wrong : WrongFiles()) {
    const auto file = Parse(wrong.bytes);
    ASSERT_FALSE(file.ok()) << wrong.what;
    EXPECT_EQ(ReasonOf(file.status()), wrong.reason) << file.status();
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(wrong.what));
  }
}

TEST(ReadGgufTest, ReadsFromAStore) {
  MemoryStore store;
  GgufMaker maker = Small();
  maker.String("long", std::string(9 << 20, 'x'));  // longer than the first read
  store.Put("f.gguf", maker.File());
  const auto file = ReadGguf(store, "f.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors.size(), 2u);
  EXPECT_EQ(ReasonOf(ReadGguf(store, "none").status()), Reason::kInputMissing);
}

std::vector<float> Values(uint32_t type, const std::string& block, size_t count) {
  std::vector<float> out(count);
  DequantizeRows(type, std::as_bytes(std::span(block)), out);
  return out;
}

TEST(DequantizeTest, EachType) {
  const std::string half = GgufMaker::Raw<uint16_t>(0x3800);   // 0.5
  const std::string minus = GgufMaker::Raw<uint16_t>(0xc000);  // -2
  std::string nibbles(16, '\0');
  for (int i = 0; i < 16; ++i)
    nibbles[static_cast<size_t>(i)] = static_cast<char>(i | (15 - i) << 4);
  std::string codes(32, '\0');
  for (int i = 0; i < 32; ++i) codes[static_cast<size_t>(i)] = static_cast<char>(i * 8 - 128);

  EXPECT_THAT(Values(0, GgufMaker::Raw(1.25f), 1), ElementsAre(1.25f));
  EXPECT_THAT(Values(1, half + minus, 2), ElementsAre(0.5f, -2.0f));
  EXPECT_THAT(Values(30, GgufMaker::Raw<uint16_t>(0x3fa0), 1), ElementsAre(1.25f));
  const auto q4_0 = Values(2, half + nibbles, 32);
  const auto q4_1 = Values(3, half + minus + nibbles, 32);
  const auto q8_0 = Values(8, half + codes, 32);
  for (int i = 0; i < 16; ++i) {
    const size_t low = static_cast<size_t>(i), high = low + 16;
    EXPECT_EQ(q4_0[low], 0.5f * static_cast<float>(i - 8));
    EXPECT_EQ(q4_0[high], 0.5f * static_cast<float>(7 - i));
    EXPECT_EQ(q4_1[low], 0.5f * static_cast<float>(i) - 2.0f);
    EXPECT_EQ(q4_1[high], 0.5f * static_cast<float>(15 - i) - 2.0f);
  }
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(q8_0[static_cast<size_t>(i)], 0.5f * static_cast<float>(i * 8 - 128));
  }
}

TEST(GgmlTypeTest, NamesSizesAndBounds) {
  EXPECT_EQ(GgmlTypeName(3), "Q4_1");
  EXPECT_EQ(GgmlTypeName(99), "type 99");
  EXPECT_EQ(GgmlBytes(3, 64), 40u);
  EXPECT_EQ(GgmlBytes(14, 256), 210u);
  EXPECT_EQ(GgmlBytes(3, 33), std::nullopt);
  EXPECT_EQ(GgmlBytes(99, 32), std::nullopt);
  EXPECT_EQ(GgmlBytes(0, uint64_t{1} << 63), std::nullopt);
  for (uint32_t type : {0u, 1u, 2u, 3u, 8u, 30u}) EXPECT_TRUE(CanDequantize(type)) << type;
  for (uint32_t type : {6u, 12u, 14u, 28u, 99u}) EXPECT_FALSE(CanDequantize(type)) << type;
}

}  // namespace
}  // namespace octavo
