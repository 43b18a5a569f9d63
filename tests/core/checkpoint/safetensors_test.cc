#include "core/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "fmt/format.h"
#include "tests/fakes/memory_store.h"

namespace octavo {
namespace {

using testing::HasSubstr;

std::string LengthField(uint64_t n) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(n >> (8 * i) & 0xff);
  return out;
}

std::string FileOf(std::string_view json) { return LengthField(json.size()) + std::string(json); }

absl::StatusOr<std::vector<v1::TensorSpec>> Parse(std::string_view json, uint64_t data_bytes) {
  const std::string file = FileOf(json);
  return ParseHeader(file, file.size() + data_bytes, "x.safetensors");
}

TEST(ParseHeaderTest, ReadsTensorsInOffsetOrder) {
  const std::string json = R"({"__metadata__":{"format":"pt"},)"
                           R"("b":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[8,12]},)"
                           R"("a":{"shape":[2,2],"data_offsets":[0,8],"dtype":"BF16",)"
                           R"("extra":{"x":[1,{"dtype":2}]}}}   )";
  const auto tensors = Parse(json, 12);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[0].name(), "a");
  EXPECT_EQ((*tensors)[0].dtype(), v1::BF16);
  EXPECT_THAT((*tensors)[0].shape(), testing::ElementsAre(2, 2));
  EXPECT_EQ((*tensors)[0].begin(), 8 + json.size());
  EXPECT_EQ((*tensors)[0].end(), 8 + json.size() + 8);
  EXPECT_EQ((*tensors)[1].file(), "x.safetensors");
  EXPECT_EQ((*tensors)[1].dtype(), v1::F8_E4M3);
}

TEST(ParseHeaderTest, AcceptsWhatIsLegalThoughOdd) {
  EXPECT_TRUE(Parse("{}", 0).ok());
  EXPECT_TRUE(Parse(" \n{}\n ", 0).ok());  // white space in front is tolerated by the reference
  EXPECT_TRUE(Parse(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", 4).ok());
  EXPECT_TRUE(Parse(R"({"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}})", 0).ok());
  EXPECT_TRUE(Parse(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                    R"("b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
                    3)
                  .ok());
  // A key may be spelled with escapes.
  const auto escaped =
      Parse("{\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
  ASSERT_TRUE(escaped.ok());
  EXPECT_EQ(escaped->front().name(), "a");
}

struct BadHeader {
  const char* why;
  std::string json;
  uint64_t data_bytes;
  Reason reason = Reason::kBadCheckpoint;
};

std::string Tensor(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"t":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape,
                     offsets);
}

TEST(ParseHeaderTest, RefusesWhatIsMalformed) {
  const BadHeader cases[] = {
      {"JSON", "", 0},
      {"JSON", "[]", 0},
      {"JSON", "\xef\xbb\xbf{}", 0},
      {"NUL", std::string("{}\0", 3), 0},
      {"JSON", "{", 0},
      {"JSON", "{}x", 0},
      {"JSON", "{\"a\xff\":1}", 0},
      {"JSON", "{\"__metadata__\":{\"a\":\"\\ud800\"}}", 0},
      {"not an object", R"({"t":7})", 0},
      {"not an object", R"({"t":null})", 0},
      {"no object", R"({"t":[1]})", 0},
      {"missing", R"({"t":{}})", 0},
      {"missing", R"({"t":{"dtype":"U8","shape":[1]}})", 1},
      {"appears twice", R"({"t":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1},
      {"twice",
       R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       1},
      {"twice", R"({"__metadata__":{},"__metadata__":{}})", 0},
      {"twice", R"({"__metadata__":{"a":"1","a":"2"}})", 0},
      {"no string", R"({"__metadata__":{"a":1}})", 0},
      {"no string", R"({"__metadata__":{"a":{"b":"c"}}})", 0},
      {"not", R"({"__metadata__":"x"})", 0},
      {"unknown dtype", Tensor(R"("F33")", "[1]", "[0,4]"), 4},
      {"unsupported dtype", Tensor(R"("F4")", "[2]", "[0,1]"), 1, Reason::kUnsupported},
      {"wrong place", Tensor("3", "[1]", "[0,4]"), 4},
      {"wrong place", Tensor(R"("U8")", "{}", "[0,1]"), 1},
      {"wrong place", Tensor(R"("U8")", "[[1]]", "[0,1]"), 1},
      {"negative", Tensor(R"("U8")", "[-1]", "[0,1]"), 1},
      {"negative", Tensor(R"("U8")", "[1]", "[-0,1]"), 1},
      {"no integer", Tensor(R"("U8")", "[1.0]", "[0,1]"), 1},
      {"no integer", Tensor(R"("U8")", "[1]", "[0,1e0]"), 1},
      {"no integer", Tensor(R"("U8")", "[18446744073709551616]", "[0,1]"), 1},
      {"overflows", Tensor(R"("U8")", "[9223372036854775808]", "[0,1]"), 1},
      {"shape overflows", Tensor(R"("U8")", "[4294967296,4294967296,2]", "[0,0]"), 0},
      {"shape overflows", Tensor(R"("F32")", "[4611686018427387904]", "[0,0]"), 0},
      {"shape overflows", Tensor(R"("F32")", "[0,4294967296,4294967296,2]", "[0,0]"), 0},
      {"fewer than two", Tensor(R"("U8")", "[1]", "[0]"), 1},
      {"more than two", Tensor(R"("U8")", "[1]", "[0,1,2]"), 1},
      {"backwards", Tensor(R"("U8")", "[1]", "[1,0]"), 1},
      {"span 2 bytes", Tensor(R"("U8")", "[1]", "[0,2]"), 2},
      {"after the file's end", Tensor(R"("U8")", "[2]", "[0,2]"), 1},
      {"after the last tensor", Tensor(R"("U8")", "[1]", "[0,1]"), 2},
      {"after the last tensor", "{}", 1},
      {"unused bytes", Tensor(R"("U8")", "[1]", "[1,2]"), 2},
      {"overlaps",
       R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
       3},
      {"not aligned",
       R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[1,3]}})",
       3},
  };
  for (const BadHeader& bad : cases) {
    const auto tensors = Parse(bad.json, bad.data_bytes);
    ASSERT_FALSE(tensors.ok()) << bad.json;
    EXPECT_EQ(ReasonOf(tensors.status()), bad.reason) << tensors.status();
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr(bad.why)) << bad.json;
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr("x.safetensors"));
    EXPECT_THAT(std::string(tensors.status().message()), HasSubstr("byte offset")) << bad.json;
  }
}

TEST(ParseHeaderTest, RefusesDeepNestingInUnknownKeys) {
  std::string json = R"({"t":{"x":)" + std::string(100'000, '[') + std::string(100'000, ']') +
                     R"(,"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  const auto tensors = Parse(json, 1);
  ASSERT_FALSE(tensors.ok());
  EXPECT_THAT(std::string(tensors.status().message()), HasSubstr("too deeply"));
}

TEST(HeaderLengthTest, BoundsTheHeader) {
  EXPECT_FALSE(HeaderLength("1234567", 7, "x").ok());
  EXPECT_FALSE(HeaderLength(LengthField(100'000'001), 200'000'000, "x").ok());
  EXPECT_FALSE(HeaderLength(LengthField(~uint64_t{0}), 100, "x").ok());
  EXPECT_FALSE(HeaderLength(LengthField(93), 100, "x").ok());
  EXPECT_EQ(*HeaderLength(LengthField(92), 100, "x"), 92u);
}

TEST(BuildHeaderTest, SortsByDtypeThenNameAndRoundTrips) {
  const std::vector<NewTensor> tensors = {
      {"b", DType::kF8E4M3, {3, 5}}, {"z", DType::kBF16, {2}}, {"a\"\n\xc3\xa9", DType::kBF16, {}},
      {"s", DType::kF32, {7, 1}},    {"i", DType::kI8, {0}},   {"l", DType::kI64, {1}}};
  const BuiltHeader built = BuildHeader(tensors, "f.safetensors");
  EXPECT_EQ(built.bytes.size() % 8, 0u);
  std::vector<std::string> names;
  for (const auto& tensor : built.tensors) names.push_back(tensor.name());
  EXPECT_THAT(names, testing::ElementsAre("l", "s", "a\"\n\xc3\xa9", "z", "b", "i"));
  const auto parsed = ParseHeader(built.bytes, built.file_size, "f.safetensors");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), built.tensors.size());
  for (const auto& want : built.tensors) {
    const auto got = std::find_if(parsed->begin(), parsed->end(),
                                  [&](const auto& tensor) { return tensor.name() == want.name(); });
    ASSERT_NE(got, parsed->end());
    EXPECT_EQ(got->SerializeAsString(), want.SerializeAsString());
  }
}

TEST(BuildHeaderTest, BytesAreTheReferenceWriters) {
  // From safetensors 0.8.0: save({"w": zeros(2, 3, bfloat16), "s": zeros(2, 1)}, {"format": "pt"}).
  const std::vector<NewTensor> tensors = {{"w", DType::kBF16, {2, 3}}, {"s", DType::kF32, {2, 1}}};
  const std::string want =
      R"({"__metadata__":{"format":"pt"},"s":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
      R"("w":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]}})";
  const BuiltHeader built = BuildHeader(tensors, "f");
  const std::string padded = want + std::string((8 - want.size() % 8) % 8, ' ');
  EXPECT_EQ(built.bytes, LengthField(padded.size()) + padded);
  EXPECT_EQ(built.file_size, built.bytes.size() + 20);
}

TEST(ReadSafetensorsTest, ReadsTheHeaderOnly) {
  MemoryStore store;
  const BuiltHeader built = BuildHeader(std::vector<NewTensor>{{"w", DType::kU8, {4}}}, "m");
  store.Put("d/m", built.bytes + "1234");
  const auto file = ReadSafetensors(store, "d", "m");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors.size(), 1u);
  EXPECT_EQ(file->size, built.bytes.size() + 4);
  EXPECT_EQ(file->header_digest, DigestOf(built.bytes));
  store.Put("d/m", built.bytes + "9999");
  EXPECT_EQ(ReadSafetensors(store, "d", "m")->header_digest, file->header_digest);
  store.Put("d/m", "123");
  EXPECT_EQ(ReasonOf(ReadSafetensors(store, "d", "m").status()), Reason::kBadCheckpoint);
  EXPECT_EQ(ReasonOf(ReadSafetensors(store, "d", "n").status()), Reason::kInputMissing);
}

}  // namespace
}  // namespace octavo
