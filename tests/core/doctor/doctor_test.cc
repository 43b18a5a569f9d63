// What doctor finds in folders with one thing wrong. What readers really do with such folders is
// seen by tests/oracle/check_doctor.py and doctor_vllm.py; here: that each thing is found, is all
// that is found, and that Octavo's own loader agrees.

#include <functional>
#include <limits>
#include <set>
#include <sstream>

#include "core/doctor/diagnosis.h"
#include "core/scheme/recipe.h"
#include "core/store/local_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/doctor/edited_folder.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAreArray;

const std::string kO = "model.layers.0.self_attn.o_proj";
const std::string kQ = "model.layers.0.self_attn.q_proj";
const std::string kAttention = "model.layers.0.self_attn";

const char kStatic[] = R"(name: s
dialect: DIALECT
rules:
  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: tensor}}
kv_cache: {type: fp8, scale: tensor}
calibration: {observer: absmax, samples: 4, sample_length: 64}
)";
const char kBlocks[] = R"(name: b
dialect: fp8
rules:
  - weight: {type: fp8, scale: block, block: [128, 128]}
    input: {type: fp8, scale: group, group: 128}
)";

const char kHead[] = R"(name: h
rules:
  - {roles: [lm_head], weight: {type: int8, scale: channel}, input: {type: int8, scale: token}}
  - {weight: {type: int8, scale: channel}, input: {type: int8, scale: token}}
)";

v1::Recipe RecipeOf(const std::string& name) {
  const auto preset = Preset(name);
  if (preset.ok()) return *preset;
  std::string text = name == "fp8-blocks" ? kBlocks : name == "head" ? kHead : kStatic;
  if (const size_t at = text.find("DIALECT"); at != std::string::npos) {
    text.replace(at, 7, name.substr(name.find(' ') + 1));
  }
  const auto recipe = ParseRecipe(text, "test.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

EditedFolder Good(const std::string& recipe, const TestFolder& scratch) {
  TinyLlama tiny;
  tiny.hidden = 256;
  tiny.intermediate = 512;
  tiny.tied = false;
  WriteTinyLlama(tiny, scratch / "source");
  WriteQuantized(scratch / "source", RecipeOf(recipe), scratch / "good");
  return LoadFolder(scratch / "good");
}

struct Wrong {
  const char* code;  // what is found besides what the good folder has
  std::function<void(EditedFolder&)> change;
};

// Findings that lie in bytes: the loader reads headers only.
bool InBytes(std::string_view code) {
  static const std::set<std::string_view> kCodes = {
      "scale-not-finite",     "scale-zero",           "scale-negative",
      "scale-tiny",           "input-scale-value",    "code-nan",
      "code-lowest",          "cache-scale-value",    "weight-not-finite",
      "cache-scale-negative", "input-scale-negative", "input-scale-tiny"};
  return kCodes.contains(code);
}

void CheckAll(const std::string& recipe, const std::vector<Wrong>& wrongs) {
  const TestFolder scratch;
  const EditedFolder good = Good(recipe, scratch);
  const std::string dir = scratch / "case";
  SaveFolder(good, dir);
  const Examined base = Examine(dir);
  EXPECT_EQ(base.diagnosis.Of(Reader::kOctavo), Verdict::kLoads) << base.folder.loader;
  for (const Wrong& wrong : wrongs) {
    SCOPED_TRACE(recipe + ": " + wrong.code);
    EditedFolder folder = good;
    wrong.change(folder);
    SaveFolder(folder, dir);
    const Examined found = Examine(dir);
    std::set<std::string> wanted = base.codes;
    wanted.insert(wrong.code);
    EXPECT_THAT(found.codes, UnorderedElementsAreArray(wanted));
    EXPECT_FALSE(found.diagnosis.loader_knows_more) << found.folder.loader;
    for (const Rule& rule : Rules()) {
      if (rule.code != wrong.code || InBytes(rule.code)) continue;
      EXPECT_EQ(found.folder.loader.ok(), rule.claims[0].verdict != Verdict::kRefused)
          << found.folder.loader;
    }
  }
}

nlohmann::ordered_json& Weights(EditedFolder& f) {
  return f.Quantization()["config_groups"]["group_0"]["weights"];
}
nlohmann::ordered_json& Inputs(EditedFolder& f) {
  return f.Quantization()["config_groups"]["group_0"]["input_activations"];
}
void Keep(EditedFolder& f, const std::string& module) {
  f.Quantization()["ignore"].push_back(module);
}
void MakeFloat(EditedFolder& f, const std::string& module) {
  f.Put(module + ".weight", DType::kBF16, {256, 256});
}

TEST(Rules, AreInTheOrderOfTheEnumWithCodesOfTheirOwn) {
  std::set<std::string_view> codes;
  for (size_t i = 0; i < Rules().size(); ++i) {
    EXPECT_EQ(static_cast<size_t>(Rules()[i].symptom), i);
    EXPECT_TRUE(codes.insert(Rules()[i].code).second) << Rules()[i].code;
  }
}

// "| `code` | L | R | w | cure |" for every rule, in order.
TEST(Rules, AreWhatTheDocumentationSays) {
  std::istringstream page(ReadText(OCTAVO_SOURCE_DIR "/docs/compatibility/doctor.md"));
  size_t next = 0;
  for (std::string line; std::getline(page, line);) {
    if (next == Rules().size()) break;
    const Rule& rule = Rules()[next];
    std::string wanted = fmt::format("| `{}` |", rule.code);
    for (const Claim& claim : rule.claims) {
      const char letters[] = {'L', '?', 'W', 'R'};
      char letter = letters[static_cast<size_t>(claim.verdict)];
      if (claim.basis == Basis::kSource && letter != '?') letter |= 0x20;
      wanted += fmt::format(" {} |", letter);
    }
    wanted += fmt::format(" {} |", rule.cure.empty() ? "-" : rule.cure);
    if (!line.starts_with(fmt::format("| `{}` |", rule.code))) continue;
    EXPECT_EQ(line, wanted);
    ++next;
  }
  EXPECT_EQ(next, Rules().size());
}

TEST(Doctor, FindsNothingInGoodFolders) {
  for (const std::string& recipe : std::vector<std::string>{
           "fp8-dynamic", "int8-dynamic", "fp8-block", "static compressed-tensors"}) {
    const TestFolder scratch;
    SaveFolder(Good(recipe, scratch), scratch / "case");
    const Examined found = Examine(scratch / "case");
    EXPECT_THAT(found.codes, IsEmpty()) << recipe;
    for (const Reader reader : kReaders) {
      EXPECT_EQ(found.diagnosis.Of(reader), Verdict::kLoads) << recipe << " " << Name(reader);
    }
  }
}

TEST(Doctor, KnowsWhoReadsWhichDialect) {
  const TestFolder scratch;
  SaveFolder(Good("static fp8", scratch), scratch / "case");
  Examined found = Examine(scratch / "case");
  EXPECT_THAT(found.codes, ElementsAre("per-tensor-fp8"));
  EXPECT_EQ(found.diagnosis.Of(Reader::kOctavo), Verdict::kLoads);
  EXPECT_EQ(found.diagnosis.Of(Reader::kTransformers), Verdict::kLoadsWrong);
  SaveFolder(Good("static quark", scratch), scratch / "case");
  found = Examine(scratch / "case");
  EXPECT_THAT(found.codes, ElementsAre("method-not-in-transformers"));
  EXPECT_EQ(found.diagnosis.Of(Reader::kTransformers), Verdict::kRefused);
  SaveFolder(Good("fp8-blocks", scratch), scratch / "case");
  EXPECT_THAT(Examine(scratch / "case").codes, IsEmpty());
}

TEST(Doctor, FindsWhatIsWrongWithTheModel) {
  CheckAll("fp8-dynamic",
           {{"weight-missing", [](auto& f) { f.Drop("model.norm.weight"); }},
            {"codes-missing", [](auto& f) { f.Drop(kO + ".weight"); }},
            {"tensor-unknown", [](auto& f) { f.Put(kAttention + ".sinks", DType::kBF16, {4}); }},
            {"bias-unknown", [](auto& f) { f.Put(kO + ".bias", DType::kBF16, {256}); }},
            {"weight-shape",
             [](auto& f) {
               f.At(kO + ".weight").shape = {128, 512};
             }},
            {"size-hidden",
             [](auto& f) {
               f.config["hidden_size"] = 128;
               f.config["head_dim"] = 64;
             }},
            {"size-heads-smaller",
             [](auto& f) {
               f.config["num_attention_heads"] = 2;
               f.config["head_dim"] = 64;
             }},
            {"size-vocabulary-smaller", [](auto& f) { f.config["vocab_size"] = 48; }},
            {"size-vocabulary-larger", [](auto& f) { f.config["vocab_size"] = 480; }},
            {"size-mlp-smaller", [](auto& f) { f.config["intermediate_size"] = 256; }},
            {"size-mlp-larger", [](auto& f) { f.config["intermediate_size"] = 1024; }},
            {"layers-fewer", [](auto& f) { f.config["num_hidden_layers"] = 1; }},
            {"weight-not-finite",
             [](auto& f) { f.Fill("model.norm.weight", std::numeric_limits<float>::infinity()); }},
            {"head-differs", [](auto& f) { f.config["tie_word_embeddings"] = true; }},
            {"head-stray", [](auto& f) {
               f.config["tie_word_embeddings"] = true;
               f.At("lm_head.weight") = f.At("model.embed_tokens.weight");
             }}});
}

TEST(Doctor, FindsWhatCompressedTensorsSaysWrongly) {
  CheckAll(
      "fp8-dynamic",
      {{"quantization-gone", [](auto& f) { f.config.erase("quantization_config"); }},
       {"method-unknown", [](auto& f) { f.Quantization()["quant_method"] = "eight-bits"; }},
       {"method-missing", [](auto& f) { f.Quantization().erase("quant_method"); }},
       {"status-open", [](auto& f) { f.Quantization()["quantization_status"] = "frozen"; }},
       {"status-missing", [](auto& f) { f.Quantization().erase("quantization_status"); }},
       {"format-unknown", [](auto& f) { f.Quantization()["format"] = "octavo"; }},
       {"format-dense", [](auto& f) { f.Quantization()["format"] = "dense"; }},
       {"format-packed", [](auto& f) { f.Quantization()["format"] = "pack-quantized"; }},
       {"sparsity",
        [](auto& f) {
          f.Quantization()["sparsity_config"] = {{"format", "marlin-24"}};
        }},
       {"sparsity-dense",  // no weight is stored so
        [](auto& f) {
          f.Quantization()["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
        }},
       {"sparsity-dense",
        [](auto& f) {
          f.Quantization()["sparsity_config"] = {{"format", "dense"}};
        }},
       {"args-unknown-key", [](auto& f) { Weights(f)["flavour"] = 1; }},
       {"actorder", [](auto& f) { Weights(f)["actorder"] = "group"; }},
       {"asymmetric-weights", [](auto& f) { Weights(f)["symmetric"] = false; }},
       {"asymmetric-inputs", [](auto& f) { Inputs(f)["symmetric"] = false; }},
       {"bits", [](auto& f) { Weights(f)["num_bits"] = 4; }},
       {"strategy", [](auto& f) { Weights(f)["strategy"] = "group"; }},
       {"inputs-per-tensor", [](auto& f) { Inputs(f)["strategy"] = "tensor"; }},
       {"kept-by-pattern", [](auto& f) { f.Quantization()["ignore"] = {"re:.*lm_head"}; }},
       {"target-pattern",
        [](auto& f) { f.Quantization()["config_groups"]["group_0"]["targets"] = {"re:.*_proj$"}; }},
       {"codes-kept", [](auto& f) { Keep(f, kO); }},
       {"head-not-kept",
        [](auto& f) { f.Quantization()["ignore"] = nlohmann::ordered_json::array(); }},
       {"group-kept-in-part", [](auto& f) {
          MakeFloat(f, kQ);
          f.Drop(kQ + ".weight_scale");
          Keep(f, kQ);
        }}});
}

TEST(Doctor, FindsWhatIsWrongWithAHeadOfCodes) {
  CheckAll("head", {{"head-unnamed", [](auto& f) {
                       f.Quantization()["config_groups"]["group_0"]["targets"] = {"Linear"};
                     }}});
  CheckAll("fp8-block",
           {{"head-blocks", [](auto& f) {
               const int64_t rows = f.At("lm_head.weight").shape[0];
               f.Put("lm_head.weight", DType::kF8E4M3, {rows, 256});
               f.Put("lm_head.weight_scale", DType::kBF16, {(rows + 127) / 128, 2});
               f.Quantization()["ignore"] = nlohmann::ordered_json::array();
               f.Quantization()["config_groups"]["group_0"]["targets"] = {"Linear", "lm_head"};
             }}});
}

TEST(Doctor, FindsWhatIsWrongWithScalesAndCodes) {
  const std::string scale = kO + ".weight_scale";
  CheckAll("fp8-dynamic",
           {{"scale-missing", [&](auto& f) { f.Drop(scale); }},
            {"scale-shape",
             [&](auto& f) {
               f.Put(scale, DType::kF32, {128, 1});
             }},
            {"scale-broadcasts",
             [&](auto& f) {
               f.Put(scale, DType::kF32, {1, 256});
             }},
            {"scale-one-axis", [&](auto& f) { f.At(scale).shape = {256}; }},
            {"scale-double",
             [&](auto& f) {
               f.Put(scale, DType::kF64, {256, 1});
             }},
            {"scale-integer",
             [&](auto& f) {
               f.Put(scale, DType::kI32, {256, 1});
             }},
            {"scale-zero", [&](auto& f) { f.Fill(scale, 0.0f); }},
            {"scale-negative", [&](auto& f) { f.Fill(scale, -1.0f); }},
            {"scale-tiny", [&](auto& f) { f.Fill(scale, 1e-30f); }},
            {"scale-not-finite",
             [&](auto& f) { f.Fill(scale, std::numeric_limits<float>::quiet_NaN()); }},
            {"scale-surplus", [](auto& f) { f.Put(kO + ".input_scale", DType::kF32, {1}); }},
            {"zero-point-surplus",
             [](auto& f) {
               f.Put(kO + ".weight_zero_point", DType::kI8, {256, 1});
             }},
            {"cache-unannounced",
             [](auto& f) {
               f.Put(kAttention + ".k_scale", DType::kF32, {1});
               f.Put(kAttention + ".v_scale", DType::kF32, {1});
             }},
            {"weight-float",
             [&](auto& f) {
               MakeFloat(f, kO);
               f.Drop(scale);
             }},
            {"weight-float-beside-scale", [](auto& f) { MakeFloat(f, kO); }},
            {"weight-other-codes", [](auto& f) { f.At(kO + ".weight").dtype = DType::kI8; }},
            {"code-nan", [](auto& f) { f.At(kO + ".weight").bytes[9] = '\x7f'; }}});
  CheckAll("int8-dynamic",
           {{"code-lowest", [](auto& f) { f.At(kO + ".weight").bytes[9] = '\x80'; }},
            {"int8-weight-only",
             [](auto& f) {
               f.Quantization()["config_groups"]["group_0"]["input_activations"] = nullptr;
             }},
            {"weight-other-codes", [](auto& f) { f.At(kO + ".weight").dtype = DType::kF8E4M3; }}});
}

TEST(Doctor, FindsWhatIsWrongWithStaticScalesAndTheCache) {
  const std::string scale = kO + ".weight_scale", input = kO + ".input_scale";
  const std::string key = kAttention + ".k_scale";
  CheckAll("static compressed-tensors",
           {{"scale-scalar", [&](auto& f) { f.At(scale).shape = {}; }},
            {"scale-two-axes",
             [&](auto& f) {
               f.At(scale).shape = {1, 1};
             }},
            {"scale-shape", [&](auto& f) { f.Put(scale, DType::kBF16, {2}); }},
            {"input-scale-missing", [&](auto& f) { f.Drop(input); }},
            {"input-scale-missing-in-group", [](auto& f) { f.Drop(kQ + ".input_scale"); }},
            {"input-scale-shape", [&](auto& f) { f.Put(input, DType::kBF16, {2}); }},
            {"input-scale-value", [&](auto& f) { f.Fill(input, 0.0f); }},
            {"cache-scale-missing", [&](auto& f) { f.Drop(key); }},
            {"cache-scale-shape",
             [&](auto& f) {
               f.Put(key, DType::kBF16, {2, 1, 1});
             }},
            {"cache-scale-value", [&](auto& f) { f.Fill(key, 0.0f); }},
            {"cache-scale-negative", [&](auto& f) { f.Fill(key, -1.0f); }},
            {"input-scale-negative", [&](auto& f) { f.Fill(input, -1.0f); }},
            {"input-scale-tiny", [&](auto& f) { f.Fill(input, 1e-30f); }},
            {"cache-as-outputs",
             [&](auto& f) {
               f.tensors[kAttention + ".k_proj.output_scale"] = f.At(key);
               f.Drop(key);
             }},
            {"cache-scheme", [](auto& f) { f.Quantization()["kv_cache_scheme"]["type"] = "int"; }},
            {"cache-unannounced", [](auto& f) { f.Quantization()["kv_cache_scheme"] = nullptr; }}});
}

TEST(Doctor, FindsWhatTheOtherDialectsSayWrongly) {
  CheckAll("static fp8",
           {{"activation-missing", [](auto& f) { f.Quantization().erase("activation_scheme"); }},
            {"kept-by-glob", [](auto& f) { f.Quantization()["ignored_layers"] = {"*lm_head"}; }},
            {"float-format", [](auto& f) { f.Quantization()["fmt"] = "e5m2"; }},
            {"codes-kept", [](auto& f) { f.Quantization()["ignored_layers"].push_back(kO); }},
            {"not-exported",
             [](auto& f) { f.Quantization()["export"]["weight_format"] = "fake_quantized"; }}});
  CheckAll("fp8-blocks",
           {{"blocks-static", [](auto& f) { f.Quantization()["activation_scheme"] = "static"; }},
            {"scale-missing", [](auto& f) { f.Drop(kO + ".weight_scale_inv"); }}});
  CheckAll("static quark",
           {{"quark-section-missing", [](auto& f) { f.Quantization().erase("export"); }},
            {"quark-list-missing", [](auto& f) { f.Quantization().erase("exclude"); }},
            {"quark-cache-group",
             [](auto& f) {
               f.Quantization()["export"]["kv_cache_group"] = {"*Wqkv", "*nothing"};
             }},
            {"not-exported",
             [](auto& f) { f.Quantization()["export"]["weight_format"] = "fake_quantized"; }}});
}

}  // namespace
}  // namespace octavo
