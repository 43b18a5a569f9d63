#include "core/checkpoint/index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace octavo {
namespace {

using testing::HasSubstr;

TEST(ParseIndexTest, ReadsTheMap) {
  const auto index =
      ParseIndex(R"({"metadata":{"total_size":12,"total_parameters":6},)"
                 R"("weight_map":{"b":"m-2.safetensors","a":"m-1.safetensors"},"x":[{}]})",
                 "i.json");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->total_size, 12u);
  ASSERT_EQ(index->weight_map.size(), 2u);
  EXPECT_EQ(index->weight_map.at("a"), "m-1.safetensors");
  EXPECT_TRUE(ParseIndex(R"({"weight_map":{"a":"m.safetensors"}})", "i").ok());
  // Some writers spell sizes as floats.
  EXPECT_TRUE(
      ParseIndex(R"({"metadata":{"total_size":1.5e3},"weight_map":{"a":"m.safetensors"}})", "i")
          .ok());
}

TEST(ParseIndexTest, RefusesWhatIsMalformed) {
  const std::pair<const char*, std::string> cases[] = {
      {"JSON", ""},
      {"JSON", "[1]"},
      {"JSON", R"({"weight_map":{"a":"m.safetensors"})"},
      {"NUL", std::string("{\"a\":1}\0", 8)},
      {"no weight_map", "{}"},
      {"no weight_map", R"({"weight_map":{}})"},
      {"no object", R"({"weight_map":["a"]})"},
      {"no object", R"({"weight_map":7})"},
      {"file name must be", R"({"weight_map":{"a":7}})"},
      {"file name must be", R"({"weight_map":{"a":{"b":"c"}}})"},
      {"file name must be", R"({"weight_map":{"a":null}})"},
      {"tensor appears twice", R"({"weight_map":{"a":"m.safetensors","a":"m.safetensors"}})"},
      {"weight_map appears twice",
       R"({"weight_map":{"a":"m.safetensors"},"weight_map":{"b":"m.safetensors"}})"},
      {"no plain file name", R"({"weight_map":{"a":"../m.safetensors"}})"},
      {"no plain file name", R"({"weight_map":{"a":"/etc/m.safetensors"}})"},
      {"no plain file name", R"({"weight_map":{"a":"x/m.safetensors"}})"},
      {"no plain file name", R"({"weight_map":{"a":""}})"},
      {"no plain file name", R"({"weight_map":{"a":"m\u0000.safetensors"}})"},
      {"no safetensors file", R"({"weight_map":{"a":"pytorch_model.bin"}})"},
      {"too deeply", R"({"x":)" + std::string(70, '[') + std::string(70, ']') + "}"},
  };
  for (const auto& [why, text] : cases) {
    const auto index = ParseIndex(text, "i.json");
    ASSERT_FALSE(index.ok()) << text;
    EXPECT_EQ(ReasonOf(index.status()), Reason::kBadCheckpoint);
    EXPECT_THAT(std::string(index.status().message()), HasSubstr(why)) << text;
    EXPECT_THAT(std::string(index.status().message()), HasSubstr("i.json"));
  }
}

TEST(BuildIndexTest, WritesAsHuggingFaceDoesAndRoundTrips) {
  TensorIndex index;
  index.total_size = 5;
  index.weight_map = {{"b", "model-00002-of-00002.safetensors"},
                      {"a\"", "model-00001-of-00002.safetensors"}};
  const std::string text = BuildIndex(index);
  EXPECT_EQ(text,
            "{\n  \"metadata\": {\n    \"total_size\": 5\n  },\n  \"weight_map\": {\n"
            "    \"a\\\"\": \"model-00001-of-00002.safetensors\",\n"
            "    \"b\": \"model-00002-of-00002.safetensors\"\n  }\n}\n");
  const auto again = ParseIndex(text, "i");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->weight_map, index.weight_map);
  EXPECT_EQ(again->total_size, 5u);
}

TEST(ShardNameTest, CountsFromOne) {
  EXPECT_EQ(ShardName(1, 3), "model-00001-of-00003.safetensors");
  EXPECT_EQ(ShardName(1, 1), "model.safetensors");
}

}  // namespace
}  // namespace octavo
