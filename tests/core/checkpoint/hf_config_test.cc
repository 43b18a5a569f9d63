#include "core/checkpoint/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/checkpoint/config_json.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;

Json Base() {
  return Json::parse(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
    "intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
    "vocab_size":100,"max_position_embeddings":128,"rms_norm_eps":1e-5,"rope_theta":500000.0,
    "hidden_act":"silu","tie_word_embeddings":true,"torch_dtype":"bfloat16","eos_token_id":2,
    "bos_token_id":1,"unknown_key":{"a":[1]}})");
}

absl::StatusOr<v1::ModelSpec> With(std::string_view patch, std::string_view generation = "") {
  Json json = Base();
  json.merge_patch(Json::parse(patch));  // null removes a key
  return ParseConfig(json.dump(), generation);
}

TEST(ParseConfigTest, ReadsTransformers4) {
  const auto spec = With("{}");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->family(), "llama");
  EXPECT_EQ(spec->hidden_size(), 64);
  EXPECT_EQ(spec->head_dim(), 16);
  EXPECT_EQ(spec->kv_head_count(), 2);
  EXPECT_EQ(spec->rope_theta(), 500000.0);
  EXPECT_FALSE(spec->has_rope_scaling());
  EXPECT_TRUE(spec->tied_embeddings());
  EXPECT_EQ(spec->dtype(), v1::BF16);
  EXPECT_THAT(spec->eos_token_ids(), ElementsAre(2));
  EXPECT_EQ(spec->bos_token_id(), 1);
}

TEST(ParseConfigTest, ReadsTransformers5) {
  const auto spec =
      With(R"({"torch_dtype":null,"rope_theta":null,"dtype":"float16","rope_parameters":{
    "rope_theta":10000.0,"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
    "high_freq_factor":4.0,"original_max_position_embeddings":8192}})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->dtype(), v1::F16);
  EXPECT_EQ(spec->rope_theta(), 10000.0);
  EXPECT_EQ(spec->rope_scaling().type(), "llama3");
  EXPECT_EQ(spec->rope_scaling().factor(), 8.0);
  EXPECT_EQ(spec->rope_scaling().original_max_position(), 8192);
  const auto plain = With(R"({"rope_theta":null,
    "rope_parameters":{"rope_theta":5.0,"rope_type":"default"}})");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->rope_theta(), 5.0);
  EXPECT_FALSE(plain->has_rope_scaling());
}

TEST(ParseConfigTest, FillsInWhatIsAbsent) {
  const auto spec = With(R"({"num_key_value_heads":null,"rope_theta":null,"torch_dtype":null,
    "tie_word_embeddings":null,"eos_token_id":null,"bos_token_id":null,"architectures":null})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->kv_head_count(), 4);
  EXPECT_EQ(spec->rope_theta(), 10000.0);
  EXPECT_FALSE(spec->tied_embeddings());
  EXPECT_EQ(spec->dtype(), v1::DTYPE_UNSPECIFIED);
  EXPECT_TRUE(spec->eos_token_ids().empty());
  EXPECT_EQ(spec->bos_token_id(), -1);
}

TEST(ParseConfigTest, HeadDimIsFree) {
  EXPECT_EQ(With(R"({"head_dim":32})")->head_dim(), 32);
  EXPECT_EQ(With(R"({"head_dim":32,"num_attention_heads":6,"num_key_value_heads":3})")->head_dim(),
            32);
}

TEST(ParseConfigTest, GenerationConfigWins) {
  const auto list = With("{}", R"({"eos_token_id":[5,6,7],"bos_token_id":4})");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_THAT(list->eos_token_ids(), ElementsAre(5, 6, 7));
  EXPECT_EQ(list->bos_token_id(), 4);
  const auto silent = With("{}", R"({"do_sample":true,"eos_token_id":null})");
  EXPECT_THAT(silent->eos_token_ids(), ElementsAre(2));
  EXPECT_FALSE(With("{}", R"({"eos_token_id":"x"})").ok());
  EXPECT_FALSE(With("{}", R"({"eos_token_id":[-1]})").ok());
  EXPECT_FALSE(With("{}", "nonsense").ok());
}

TEST(ParseConfigTest, ReadsTheOldSpellingOfScaling) {
  const auto spec = With(R"({"rope_scaling":{"type":"linear","factor":2}})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->rope_scaling().type(), "linear");
  EXPECT_EQ(spec->rope_scaling().factor(), 2.0);
}

TEST(ParseConfigTest, RefusesWithAReason) {
  struct Case {
    const char* patch;
    Reason reason;
    const char* what;
  };
  const Case cases[] = {
      {R"({"model_type":null})", Reason::kBadCheckpoint, "model_type is missing"},
      {R"({"model_type":7})", Reason::kBadCheckpoint, "model_type is no string"},
      {R"({"model_type":"gpt2"})", Reason::kUnsupported, "Supported: llama"},
      {R"({"model_type":"gemma"})", Reason::kUnsupported, "not supported yet"},
      {R"({"architectures":["LlamaForSequenceClassification"]})", Reason::kUnsupported, "must be"},
      {R"({"architectures":[]})", Reason::kBadCheckpoint, "architectures"},
      {R"({"hidden_size":null})", Reason::kBadCheckpoint, "hidden_size is missing"},
      {R"({"hidden_size":"64"})", Reason::kBadCheckpoint, "hidden_size is no integer"},
      {R"({"hidden_size":64.0})", Reason::kBadCheckpoint, "hidden_size is no integer"},
      {R"({"hidden_size":-64})", Reason::kBadCheckpoint, "outside"},
      {R"({"hidden_size":18446744073709551615})", Reason::kBadCheckpoint, "no integer"},
      {R"({"hidden_size":66})", Reason::kBadCheckpoint, "no multiple"},
      {R"({"num_hidden_layers":1000000000})", Reason::kBadCheckpoint, "num_hidden_layers"},
      {R"({"num_attention_heads":0})", Reason::kBadCheckpoint, "num_attention_heads"},
      {R"({"num_key_value_heads":3})", Reason::kBadCheckpoint, "num_key_value_heads"},
      {R"({"head_dim":15})", Reason::kBadCheckpoint, "odd"},
      {R"({"rms_norm_eps":0})", Reason::kBadCheckpoint, "rms_norm_eps"},
      {R"({"rms_norm_eps":"x"})", Reason::kBadCheckpoint, "rms_norm_eps"},
      {R"({"rope_theta":-1})", Reason::kBadCheckpoint, "rope_theta"},
      {R"({"rope_parameters":{"rope_theta":7}})", Reason::kBadCheckpoint, "contradict"},
      {R"({"rope_parameters":[]})", Reason::kBadCheckpoint, "rope_parameters"},
      {R"({"rope_scaling":{"type":"yarn","factor":2}})", Reason::kUnsupported, "yarn"},
      {R"({"rope_scaling":{"type":"linear"}})", Reason::kBadCheckpoint, "factor is missing"},
      {R"({"rope_scaling":{"type":"linear","factor":0.5}})", Reason::kBadCheckpoint, "below 1"},
      {R"({"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":4,
          "high_freq_factor":1}})",
       Reason::kBadCheckpoint, "llama3"},
      {R"({"hidden_act":"gelu"})", Reason::kUnsupported, "gelu"},
      {R"({"tie_word_embeddings":"yes"})", Reason::kBadCheckpoint, "no boolean"},
      {R"({"torch_dtype":"int8"})", Reason::kUnsupported, "int8"},
      {R"({"eos_token_id":{}})", Reason::kBadCheckpoint, "eos_token_id"},
  };
  for (const Case& c : cases) {
    const auto spec = With(c.patch);
    ASSERT_FALSE(spec.ok()) << c.patch;
    EXPECT_EQ(ReasonOf(spec.status()), c.reason) << spec.status();
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(c.what));
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr("config.json"));
  }
}

TEST(ParseJsonObjectTest, IsStrict) {
  EXPECT_TRUE(ParseJsonObject(R"({"a":{"b":1},"c":{"b":1}})", "f").ok());
  const std::pair<const char*, std::string> cases[] = {
      {"twice", R"({"a":1,"a":2})"},
      {"twice", R"({"x":[{"a":1,"a":2}]})"},
      {"not a JSON object", "[]"},
      {"not a JSON object", ""},
      {"byte offset 6", R"({"a": })"},
      {"too deeply", R"({"a":)" + std::string(80, '[') + std::string(80, ']') + "}"},
      {"NUL", std::string("{}\0", 3)},
      {"invalid JSON", "{\"a\":1e999}"},
      {"invalid JSON", "{\"\xc3\x28\":1}"},
  };
  for (const auto& [why, text] : cases) {
    const auto json = ParseJsonObject(text, "f");
    ASSERT_FALSE(json.ok()) << text;
    EXPECT_THAT(std::string(json.status().message()), HasSubstr(why)) << text;
  }
}

TEST(ParseConfigTest, ASlidingWindowBoundsTheLength) {
  constexpr const char* kMistral =
      R"("model_type":"mistral","architectures":["MistralForCausalLM"])";
  constexpr const char* kQwen2 = R"("model_type":"qwen2","architectures":["Qwen2ForCausalLM"])";
  const std::pair<std::string, int64_t> cases[] = {
      {fmt::format(R"({{{},"sliding_window":100}})", kMistral), 100},
      {fmt::format(R"({{{},"max_position_embeddings":9000}})", kMistral), 4096},
      {fmt::format(R"({{{},"sliding_window":200}})", kMistral), 128},
      {fmt::format(R"({{{},"sliding_window":100}})", kQwen2), 128},
      {fmt::format(R"({{{},"sliding_window":100,"use_sliding_window":true}})", kQwen2), 100},
      {R"({"sliding_window":100})", 128},
  };
  for (const auto& [patch, length] : cases) {
    const auto spec = With(patch);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(spec->max_position(), length) << patch;
  }
  // merge_patch takes null for "remove": an explicit null needs the text itself.
  Json json = Base();
  json.merge_patch(Json::parse(fmt::format(R"({{{},"max_position_embeddings":9000}})", kMistral)));
  json["sliding_window"] = nullptr;
  EXPECT_EQ(ParseConfig(json.dump(), "")->max_position(), 9000);
  json["sliding_window"] = -1;
  EXPECT_EQ(ReasonOf(ParseConfig(json.dump(), "").status()), Reason::kBadCheckpoint);
}

TEST(ParseConfigTest, FamiliesHaveTheirOwnDefaults) {
  const auto qwen = With(R"({"model_type":"qwen2","architectures":["Qwen2ForCausalLM"],
    "num_attention_heads":32,"num_key_value_heads":null,"attention_bias":false})");
  ASSERT_TRUE(qwen.ok()) << qwen.status();
  EXPECT_EQ(qwen->kv_head_count(), 32);
  EXPECT_TRUE(qwen->attention_bias());  // not a choice of config.json in this family
  const auto mistral = With(R"({"model_type":"mistral","architectures":["MistralForCausalLM"],
    "num_attention_heads":16,"num_key_value_heads":null,"attention_bias":true})");
  ASSERT_TRUE(mistral.ok()) << mistral.status();
  EXPECT_EQ(mistral->kv_head_count(), 8);
  EXPECT_FALSE(mistral->attention_bias());
}

TEST(ParseConfigTest, Qwen3HeadsAre128WideUnlessSaid) {
  const auto spec = With(R"({"model_type":"qwen3","architectures":["Qwen3ForCausalLM"]})");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->head_dim(), 128);
  EXPECT_FALSE(spec->attention_bias());
}

TEST(ParseConfigTest, MixturesSayHowManyExperts) {
  constexpr std::string_view kMixtral =
      R"({"model_type":"mixtral","architectures":["MixtralForCausalLM"],)";
  const auto mixtral =
      With(fmt::format(R"({}"num_local_experts":5,"num_experts_per_tok":3}})", kMixtral));
  ASSERT_TRUE(mixtral.ok()) << mixtral.status();
  EXPECT_EQ(mixtral->expert_count(), 5);
  EXPECT_EQ(mixtral->experts_per_token(), 3);
  EXPECT_TRUE(mixtral->normalized_experts());
  EXPECT_EQ(With(fmt::format(R"({}"rope_theta":null}})", kMixtral))->expert_count(), 8);
  const auto many =
      With(fmt::format(R"({}"num_local_experts":2,"num_experts_per_tok":3}})", kMixtral));
  EXPECT_EQ(ReasonOf(many.status()), Reason::kBadCheckpoint);
  EXPECT_EQ(With(R"({"num_local_experts":5})")->expert_count(), 0);  // not a key of Llama
}

Json Dbrx() {
  return Json::parse(R"({"architectures":["DbrxForCausalLM"],"model_type":"dbrx","d_model":64,
    "n_heads":4,"n_layers":2,"max_seq_len":128,"vocab_size":100,
    "attn_config":{"clip_qkv":8,"kv_n_heads":2,"rope_theta":500000},
    "ffn_config":{"ffn_hidden_size":96,"moe_num_experts":6,"moe_top_k":4}})");
}

TEST(ParseConfigTest, ReadsDbrx) {
  const auto spec = ParseConfig(Dbrx().dump(), "");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->head_dim(), 16);
  EXPECT_EQ(spec->kv_head_count(), 2);
  EXPECT_EQ(spec->intermediate_size(), 96);
  EXPECT_EQ(spec->expert_count(), 6);
  EXPECT_EQ(spec->experts_per_token(), 4);
  EXPECT_EQ(spec->clip_qkv(), 8.0);
  EXPECT_EQ(spec->rope_theta(), 500000.0);
  EXPECT_EQ(spec->norm_eps(), 1e-5);
  EXPECT_TRUE(spec->layer_norm());
  EXPECT_TRUE(spec->normalized_experts());

  Json json = Dbrx();
  json["attn_config"]["clip_qkv"] = nullptr;
  json["ffn_config"]["moe_normalize_expert_weights"] = nullptr;
  const auto plain = ParseConfig(json.dump(), "");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->clip_qkv(), 0.0);
  EXPECT_FALSE(plain->normalized_experts());
  EXPECT_EQ(ParseConfig(ConfigText(*plain), "")->SerializeAsString(), plain->SerializeAsString());

  json["ffn_config"]["moe_normalize_expert_weights"] = 2.0;
  EXPECT_EQ(ReasonOf(ParseConfig(json.dump(), "").status()), Reason::kUnsupported);
  json = Dbrx();
  json["attn_config"]["clip_qkv"] = -1;
  EXPECT_EQ(ReasonOf(ParseConfig(json.dump(), "").status()), Reason::kBadCheckpoint);
}

TEST(HasQuantizationTest, LooksForEitherKey) {
  EXPECT_FALSE(*HasQuantization(R"({"quantization_config":null})"));
  EXPECT_TRUE(*HasQuantization(R"({"quantization_config":{}})"));
  EXPECT_TRUE(*HasQuantization(R"({"compression_config":{"a":1}})"));
}

TEST(ConfigTextTest, RoundTrips) {
  for (const char* patch :
       {"{}", R"({"head_dim":32,"attention_bias":true,"mlp_bias":true})",
        R"({"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
           "high_freq_factor":4.0,"original_max_position_embeddings":64},"torch_dtype":"float32"})",
        R"({"eos_token_id":[2,3],"bos_token_id":null})",
        R"({"model_type":"mistral","architectures":["MistralForCausalLM"]})",
        R"({"model_type":"qwen2","architectures":["Qwen2ForCausalLM"]})",
        R"({"model_type":"mixtral","architectures":["MixtralForCausalLM"],"num_local_experts":3,
           "num_experts_per_tok":1})",
        R"({"model_type":"qwen3","architectures":["Qwen3ForCausalLM"],"attention_bias":true})"}) {
    const auto spec = With(patch);
    ASSERT_TRUE(spec.ok()) << spec.status();
    const auto again = ParseConfig(ConfigText(*spec), GenerationConfigText(*spec));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->SerializeAsString(), spec->SerializeAsString()) << ConfigText(*spec);
  }
  const auto dbrx = ParseConfig(Dbrx().dump(), "");
  EXPECT_EQ(ParseConfig(ConfigText(*dbrx), "")->SerializeAsString(), dbrx->SerializeAsString());
}

}  // namespace
}  // namespace octavo
