// Foreign folders in the dialects fp8 and quark: what AutoFP8, Quark and others write.

#include <functional>

#include "core/base/error.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

v1::ModelTensor Tensor(const std::string& name, v1::TensorRole role, v1::DType dtype,
                       std::vector<int64_t> shape) {
  v1::ModelTensor tensor;
  tensor.mutable_spec()->set_name(name);
  tensor.mutable_spec()->set_file("model.safetensors");
  tensor.mutable_spec()->set_dtype(dtype);
  tensor.mutable_spec()->mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_role(role);
  tensor.set_layer(0);
  return tensor;
}

const std::string kAttention = "model.layers.0.self_attn";
const std::string kRouter = "model.layers.0.block_sparse_moe.gate";

// One attention block, a router and a head, as a folder of `config` has them. Every projection has
// scales named `parts`, of `shape`.
struct Folder {
  ordered_json config;
  std::vector<v1::ModelTensor> tensors;

  Folder(const std::string& text, std::vector<std::string> parts, std::vector<int64_t> shape = {}) {
    config["quantization_config"] = ordered_json::parse(text);
    const std::pair<const char*, v1::TensorRole> projections[] = {{".q_proj", v1::Q_PROJ},
                                                                  {".k_proj", v1::K_PROJ},
                                                                  {".v_proj", v1::V_PROJ},
                                                                  {".o_proj", v1::O_PROJ}};
    for (const auto& [name, role] : projections) {
      tensors.push_back(Tensor(kAttention + name + ".weight", role, v1::F8_E4M3, {256, 256}));
      for (const std::string& part : parts) Add(kAttention + name + "." + part, shape);
    }
    tensors.push_back(Tensor(kRouter + ".weight", v1::ROUTER, v1::BF16, {4, 256}));
    tensors.push_back(Tensor("lm_head.weight", v1::LM_HEAD, v1::BF16, {32, 256}));
  }

  void Add(const std::string& name, std::vector<int64_t> shape = {}) {
    tensors.push_back(Tensor(name, v1::IGNORED, v1::F32, std::move(shape)));
  }
  ordered_json& section() { return config["quantization_config"]; }
  absl::StatusOr<Quantization> Read() const { return ReadQuantization(config, tensors); }

  // Of every quantized tensor; they all have the same.
  std::string Scheme() const {
    const auto read = Read();
    if (!read.ok()) return std::string(read.status().message());
    std::string text;
    int count = 0;
    for (const TensorQuantization& one : read->tensors) {
      if (!one.quantized) continue;
      ++count;
      EXPECT_TRUE(text.empty() || text == SchemeText(one.scheme));
      EXPECT_EQ(one.input_scale.has_value(), HasStaticInput(one.scheme));
      text = SchemeText(one.scheme);
    }
    EXPECT_EQ(count, 4);
    return text;
  }
};

const char kAutoFp8[] = R"({"quant_method":"fp8","activation_scheme":"static",
    "ignored_layers":["lm_head","model.layers.0.block_sparse_moe.gate"],
    "kv_cache_scheme":"static"})";
const char kQuarkFp8[] = R"({"activation_scheme":"static","ignored_layers":["lm_head","*.gate"],
    "kv_cache_scheme":"static","quant_method":"fp8","export":{"kv_cache_group":["*Wqkv"],
    "min_kv_scale":1.0,"pack_method":"reorder","weight_format":"real_quantized",
    "weight_merge_groups":null}})";
const char kBlocks[] = R"({"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8",
    "weight_block_size":[128,128]})";

TEST(ReadFp8, AutoFp8WithCacheScalesOldAndNew) {
  for (const char* text : {kAutoFp8, kQuarkFp8}) {
    Folder folder(text, {"weight_scale", "input_scale"});
    folder.Add(kAttention + ".k_scale");
    folder.Add(kAttention + ".v_scale");
    EXPECT_EQ(folder.Scheme(), "FP8 tensor / FP8 tensor static");
    EXPECT_EQ(folder.Read()->cache_scales.size(), 1u);
  }
  Folder old(kAutoFp8, {"weight_scale", "input_scale"});
  old.Add(kAttention + ".kv_scale");
  const auto read = old.Read();
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->cache_scales[0].key().name(), kAttention + ".kv_scale");
  EXPECT_EQ(read->cache_scales[0].value().name(), kAttention + ".kv_scale");
}

TEST(ReadFp8, DynamicWeightOnlyAndBlocks) {
  Folder dynamic(R"({"quant_method":"fp8","activation_scheme":"dynamic"})", {"weight_scale"});
  EXPECT_EQ(dynamic.Scheme(), "FP8 tensor / FP8 token dynamic");
  Folder weights(R"({"quant_method":"fp8","activation_scheme":null,"ignored_layers":null})",
                 {"weight_scale"}, {1});
  EXPECT_EQ(weights.Scheme(), "FP8 tensor weights only");
  // Heads and routers stay without being named.
  Folder blocks(kBlocks, {"weight_scale_inv"}, {2, 2});
  EXPECT_EQ(blocks.Scheme(), "FP8 block 128x128 / FP8 group 128 dynamic");
}

std::string QuarkText(const std::string& weight, const std::string& input,
                      const std::string& layers = "{}", const std::string& group = "[]") {
  const std::string layer =
      R"("bias":null,"target_device":null,"weight":)" + weight + R"(,"input_tensors":)" + input;
  return R"({"quant_method":"quark","quant_mode":"eager_mode","exclude":["lm_head","*.gate"],)"
         R"("global_quant_config":{)" +
         layer + R"(,"output_tensors":null},"layer_type_quant_config":{},"layer_quant_config":)" +
         layers + R"(,"export":{"kv_cache_group":)" + group +
         R"(,"pack_method":"reorder","weight_format":"real_quantized"}})";
}

std::string Spec(const std::string& scheme, const std::string& dynamic = "false") {
  return R"({"dtype":"fp8_e4m3","is_dynamic":)" + dynamic + R"(,"qscheme":")" + scheme +
         R"(","ch_axis":)" + (scheme == "per_channel" ? "0" : "null") + "}";
}

const std::string kTensorSpec = Spec("per_tensor");
const std::string kCached = R"({"bias":null,"weight":)" + kTensorSpec + R"(,"input_tensors":)" +
                            kTensorSpec + R"(,"output_tensors":)" + kTensorSpec + "}";

TEST(ReadQuark, StaticChannelAndCache) {
  Folder plain(QuarkText(kTensorSpec, kTensorSpec), {"weight_scale", "input_scale"});
  EXPECT_EQ(plain.Scheme(), "FP8 tensor / FP8 tensor static");
  // Scales of channels are one-dimensional here.
  Folder channel(QuarkText(Spec("per_channel"), "null"), {"weight_scale"}, {256});
  EXPECT_EQ(channel.Scheme(), "FP8 channel weights only");
  Folder cache(QuarkText(kTensorSpec, kTensorSpec,
                         R"({"*k_proj":)" + kCached + R"(,"*v_proj":)" + kCached + "}",
                         R"(["*k_proj","*v_proj"])"),
               {"weight_scale", "input_scale"});
  cache.Add(kAttention + ".k_proj.output_scale");
  cache.Add(kAttention + ".v_proj.output_scale");
  EXPECT_EQ(cache.Scheme(), "FP8 tensor / FP8 tensor static");
  ASSERT_EQ(cache.Read()->cache_scales.size(), 1u);
  EXPECT_EQ(cache.Read()->cache_scales[0].value().name(), kAttention + ".v_proj.output_scale");
}

struct Refusal {
  const char* what;
  std::function<void(Folder*)> damage;
  Reason reason;
  const char* message;
};

void ExpectRefusals(const Folder& good, std::span<const Refusal> refusals) {
  ASSERT_TRUE(good.Read().ok()) << good.Read().status();
  for (const Refusal& refusal : refusals) {
    Folder folder = good;
    refusal.damage(&folder);
    const auto read = folder.Read();
    ASSERT_FALSE(read.ok()) << refusal.what;
    EXPECT_EQ(ReasonOf(read.status()), refusal.reason) << refusal.what << read.status();
    EXPECT_THAT(std::string(read.status().message()), HasSubstr(refusal.message)) << refusal.what;
  }
}

TEST(ReadFp8, RefusesByName) {
  Folder good(kAutoFp8, {"weight_scale", "input_scale"});
  good.section()["kv_cache_scheme"] = nullptr;
  const Refusal refusals[] = {
      {"no scheme", [](Folder* f) { f->section().erase("activation_scheme"); },
       Reason::kBadCheckpoint, "lacks activation_scheme"},
      {"odd scheme", [](Folder* f) { f->section()["activation_scheme"] = 3; }, Reason::kUnsupported,
       "neither static nor dynamic"},
      {"static blocks",
       [](Folder* f) {
         f->section()["weight_block_size"] = {128, 128};
       },
       Reason::kUnsupported, "activation_scheme dynamic only"},
      {"odd blocks",
       [](Folder* f) {
         f->section()["weight_block_size"] = {64, 128};
       },
       Reason::kUnsupported, "[128, 128] only"},
      {"E5M2", [](Folder* f) { f->section()["fmt"] = "e5m2"; }, Reason::kUnsupported, "'e5m2'"},
      {"pattern", [](Folder* f) { f->section()["ignored_layers"].push_back("re:.*gate"); },
       Reason::kUnsupported, "ignored_layers 're:.*gate' is a pattern"},
      {"list", [](Folder* f) { f->section()["ignored_layers"] = "lm_head"; },
       Reason::kBadCheckpoint, "ignored_layers is not a list"},
      {"item", [](Folder* f) { f->section()["ignored_layers"] = {1}; }, Reason::kBadCheckpoint,
       "an item of ignored_layers"},
      {"cache", [](Folder* f) { f->section()["kv_cache_scheme"] = "dynamic"; },
       Reason::kUnsupported, "kv_cache_scheme is not static"},
      {"cache without scales", [](Folder* f) { f->section()["kv_cache_scheme"] = "static"; },
       Reason::kBadCheckpoint, "k_scale"},
      {"fake",
       [](Folder* f) {
         f->section()["export"] = {{"weight_format", "fake_quantized"}};
       },
       Reason::kUnsupported, "weight_format 'fake_quantized'"},
      {"no input scale", [](Folder* f) { f->tensors[2].mutable_spec()->set_name("a.input_scale"); },
       Reason::kBadCheckpoint, "q_proj.input_scale is missing"},
      {"kept but eight bits",
       [](Folder* f) { f->section()["ignored_layers"].push_back("*o_proj"); },
       Reason::kBadCheckpoint, "does not say that it is quantized"},
      {"quantized head",
       [](Folder* f) { f->tensors.back().mutable_spec()->set_dtype(v1::F8_E4M3); },
       Reason::kBadCheckpoint, "does not say that it is quantized"},
      {"other method", [](Folder* f) { f->section()["quant_method"] = "fbgemm_fp8"; },
       Reason::kUnsupported, "quant_method 'fbgemm_fp8'"},
      {"no object",
       [](Folder* f) {
         f->section() = {1, 2};
       },
       Reason::kBadCheckpoint, "not an object"}};
  ExpectRefusals(good, refusals);
  Folder blocks(kBlocks, {"weight_scale_inv"}, {2, 2});
  const Refusal of_blocks[] = {
      {"name", [](Folder* f) { f->tensors[1].mutable_spec()->set_name("a.weight_scale"); },
       Reason::kBadCheckpoint, "q_proj.weight_scale_inv is missing"},
      {"shape", [](Folder* f) { f->tensors[1].mutable_spec()->set_shape(0, 3); },
       Reason::kBadCheckpoint, "its shape [3, 2] does not fit"}};
  ExpectRefusals(blocks, of_blocks);
}

TEST(ReadQuark, RefusesByName) {
  const Folder good(QuarkText(kTensorSpec, kTensorSpec), {"weight_scale", "input_scale"});
  const auto global = [](Folder* f) -> ordered_json& {
    return f->section()["global_quant_config"];
  };
  const Refusal refusals[] = {
      {"no global", [](Folder* f) { f->section().erase("global_quant_config"); },
       Reason::kBadCheckpoint, "lacks global_quant_config"},
      {"no weight", [&](Folder* f) { global(f)["weight"] = nullptr; }, Reason::kUnsupported,
       "global_quant_config has no weight"},
      {"not an object", [&](Folder* f) { global(f)["weight"] = 3; }, Reason::kBadCheckpoint,
       "global_quant_config.weight is not an object"},
      {"int4", [&](Folder* f) { global(f)["weight"]["dtype"] = "int4"; }, Reason::kUnsupported,
       "global_quant_config.weight: dtype 'int4'"},
      {"groups", [&](Folder* f) { global(f)["weight"]["qscheme"] = "per_group"; },
       Reason::kUnsupported, "qscheme 'per_group'"},
      {"axis",
       [&](Folder* f) {
         global(f)["weight"]["qscheme"] = "per_channel";
         global(f)["weight"]["ch_axis"] = 1;
       },
       Reason::kUnsupported, "qscheme 'per_channel'"},
      {"dynamic", [&](Folder* f) { global(f)["input_tensors"]["is_dynamic"] = true; },
       Reason::kUnsupported, "of a whole batch"},
      {"input by channel",
       [&](Folder* f) { global(f)["input_tensors"]["qscheme"] = "per_channel"; },
       Reason::kUnsupported, "qscheme per_tensor only"},
      {"bias", [&](Folder* f) { global(f)["bias"] = ordered_json::object(); }, Reason::kUnsupported,
       "quantized biases"},
      {"output", [&](Folder* f) { global(f)["output_tensors"] = ordered_json::object(); },
       Reason::kUnsupported, "outputs are quantized"},
      {"by type", [](Folder* f) { f->section()["layer_type_quant_config"]["Linear"] = 1; },
       Reason::kUnsupported, "layer_type_quant_config"},
      {"by layer", [](Folder* f) { f->section()["layer_quant_config"]["*o_proj"] = 1; },
       Reason::kUnsupported, "layer_quant_config is handled for"},
      {"no export", [](Folder* f) { f->section().erase("export"); }, Reason::kBadCheckpoint,
       "lacks export"},
      {"fake", [](Folder* f) { f->section()["export"]["weight_format"] = "fake_quantized"; },
       Reason::kUnsupported, "'fake_quantized'"},
      {"group", [](Folder* f) { f->section()["export"]["kv_cache_group"] = {"*k_proj"}; },
       Reason::kUnsupported, "layer_quant_config is handled for"},
      {"group of numbers", [](Folder* f) { f->section()["export"]["kv_cache_group"] = {1}; },
       Reason::kBadCheckpoint, "kv_cache_group is not text"},
      {"cache of another scheme",
       [](Folder* f) {
         f->section()["export"]["kv_cache_group"] = {"*k_proj"};
         f->section()["layer_quant_config"]["*k_proj"] = ordered_json::parse(kCached);
         f->section()["layer_quant_config"]["*k_proj"]["input_tensors"] = nullptr;
       },
       Reason::kUnsupported, "'*k_proj' is quantized otherwise"}};
  ExpectRefusals(good, refusals);
}

}  // namespace
}  // namespace octavo
