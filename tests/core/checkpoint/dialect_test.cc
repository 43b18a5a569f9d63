#include "core/checkpoint/dialect.h"

#include "core/base/error.h"
#include "core/scheme/legality.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;
using ::testing::ElementsAre;

v1::ModelTensor Tensor(const std::string& name, v1::TensorRole role, std::vector<int64_t> shape,
                       v1::DType dtype = v1::BF16) {
  v1::ModelTensor tensor;
  tensor.mutable_spec()->set_name(name);
  tensor.mutable_spec()->set_dtype(dtype);
  tensor.mutable_spec()->mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_role(role);
  tensor.set_layer(0);
  tensor.set_expert(-1);
  return tensor;
}

v1::ModelSpec Experts(int64_t count) {
  v1::ModelSpec model;
  model.set_expert_count(count);
  return model;
}

v1::NumericFormat Fp8(v1::Granularity granularity) {
  v1::NumericFormat format;
  format.set_type(v1::NUMERIC_FP8_E4M3);
  format.set_granularity(granularity);
  if (granularity == v1::PER_BLOCK) {
    format.set_block_rows(128);
    format.set_block_columns(128);
  }
  return format;
}

// "name dtype shape", as a header would say it.
std::string Text(const ScaleShape& scale) {
  return scale.name + " " + std::string(Name(scale.dtype)) + " " + ordered_json(scale.shape).dump();
}

const v1::ModelTensor kQuery =
    Tensor("model.layers.0.self_attn.q_proj.weight", v1::Q_PROJ, {300, 256});
const v1::ModelTensor kFused =
    Tensor("transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight", v1::FUSED_QKV, {512, 256});
const v1::ModelTensor kStack =
    Tensor("transformer.blocks.0.ffn.experts.mlp.w1", v1::STACKED_GATE, {1024, 256});

TEST(Dialect, WeightScales) {
  const std::string base = "model.layers.0.self_attn.q_proj.weight_scale";
  const auto text = [](std::string_view dialect, const v1::ModelTensor& weight,
                       v1::Granularity granularity) {
    return Text(WeightScaleOf(dialect, Experts(16), weight, Fp8(granularity)));
  };
  EXPECT_EQ(text(kCompressedTensors, kQuery, v1::PER_TENSOR), base + " BF16 [1]");
  EXPECT_EQ(text(kCompressedTensors, kQuery, v1::PER_CHANNEL), base + " BF16 [300,1]");
  EXPECT_EQ(text(kCompressedTensors, kQuery, v1::PER_BLOCK), base + " BF16 [3,2]");
  EXPECT_EQ(text(kFp8Dialect, kQuery, v1::PER_TENSOR), base + " F32 []");
  EXPECT_EQ(text(kFp8Dialect, kQuery, v1::PER_BLOCK), base + "_inv F32 [3,2]");
  EXPECT_EQ(text(kQuarkDialect, kQuery, v1::PER_TENSOR), base + " F32 []");
  v1::ModelTensor half = kQuery;
  half.mutable_spec()->set_dtype(v1::F16);
  EXPECT_EQ(text(kCompressedTensors, half, v1::PER_TENSOR), base + " F32 [1]");
  EXPECT_EQ(CodesNameOf(kQuery), kQuery.spec().name());
}

TEST(Dialect, InputScales) {
  const v1::ModelSpec model = Experts(16);
  EXPECT_EQ(Text(InputScaleOf(kCompressedTensors, model, kQuery)),
            "model.layers.0.self_attn.q_proj.input_scale BF16 [1]");
  EXPECT_EQ(Text(InputScaleOf(kFp8Dialect, model, kQuery)),
            "model.layers.0.self_attn.q_proj.input_scale F32 []");
  EXPECT_EQ(Text(InputScaleOf(kQuarkDialect, model, kFused)),
            "transformer.blocks.0.norm_attn_norm.attn.Wqkv.input_scale F32 []");
}

TEST(Dialect, StacksHaveAScalePerExpertUnderNamesOfTheirOwn) {
  const std::string base = "transformer.blocks.0.ffn.experts.mlp.w1";
  v1::ModelTensor dotted = kStack;
  dotted.mutable_spec()->set_name(base + ".weight");
  v1::ModelTensor quantized = kStack;
  quantized.mutable_spec()->set_name(base + "_weight");
  for (const v1::ModelTensor& stack : {kStack, dotted, quantized}) {
    EXPECT_EQ(CodesNameOf(stack), base + "_weight");
    EXPECT_EQ(Text(WeightScaleOf(kFp8Dialect, Experts(16), stack, Fp8(v1::PER_TENSOR))),
              base + "_weight_scale F32 [16]");
    EXPECT_EQ(Text(InputScaleOf(kQuarkDialect, Experts(16), stack)),
              base + "_input_scale F32 [16]");
  }
}

TEST(Dialect, CacheScales) {
  const v1::ModelTensor key =
      Tensor("model.layers.0.self_attn.k_proj.weight", v1::K_PROJ, {128, 256});
  const v1::ModelTensor value =
      Tensor("model.layers.0.self_attn.v_proj.weight", v1::V_PROJ, {128, 256});
  const auto texts = [](std::string_view dialect, const v1::ModelTensor& weight) {
    std::vector<std::string> lines;
    for (const CacheScale& cache : CacheScalesOf(dialect, weight)) {
      lines.push_back((cache.point == v1::OBSERVED_KEY ? "key " : "value ") + Text(cache.scale));
    }
    return lines;
  };
  EXPECT_THAT(texts(kCompressedTensors, key),
              ElementsAre("key model.layers.0.self_attn.k_scale BF16 [1]"));
  EXPECT_THAT(texts(kCompressedTensors, value),
              ElementsAre("value model.layers.0.self_attn.v_scale BF16 [1]"));
  EXPECT_THAT(texts(kFp8Dialect, key), ElementsAre("key model.layers.0.self_attn.k_scale F32 []"));
  EXPECT_THAT(texts(kQuarkDialect, value),
              ElementsAre("value model.layers.0.self_attn.v_proj.output_scale F32 []"));
  EXPECT_THAT(texts(kFp8Dialect, kFused),
              ElementsAre("key transformer.blocks.0.norm_attn_norm.attn.k_scale F32 []",
                          "value transformer.blocks.0.norm_attn_norm.attn.v_scale F32 []"));
  EXPECT_TRUE(CacheScalesOf(kFp8Dialect, kQuery).empty());
}

// quantization_config of one attention block, its head and a router under `recipe`.
std::string Config(const std::string& text) {
  const auto recipe = ParseRecipe("name: a\n" + text, "a.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  const std::vector<v1::ModelTensor> tensors = {
      Tensor("model.embed_tokens.weight", v1::EMBEDDING, {32, 256}),
      kQuery,
      Tensor("model.layers.0.self_attn.k_proj.weight", v1::K_PROJ, {128, 256}),
      Tensor("model.layers.0.self_attn.v_proj.weight", v1::V_PROJ, {128, 256}),
      Tensor("model.layers.0.self_attn.o_proj.weight", v1::O_PROJ, {256, 256}),
      Tensor("model.layers.0.block_sparse_moe.gate.weight", v1::ROUTER, {4, 256}),
      Tensor("lm_head.weight", v1::LM_HEAD, {32, 256})};
  const auto schemes = ResolveSchemes(*recipe, tensors);
  EXPECT_TRUE(schemes.ok()) << schemes.status();
  return QuantizationConfigJson(*recipe, {}, tensors, *schemes).dump();
}

const std::string kStatic =
    "rules:\n  - {roles: [o_proj], weight: keep}\n"
    "  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: tensor}}\n";
const std::string kCalibration = "calibration: {observer: absmax, samples: 2, sample_length: 3}\n";
const std::string kCache = "kv_cache: {type: fp8, scale: tensor}\n";
const std::string kKept =
    R"("lm_head","model.layers.0.block_sparse_moe.gate","model.layers.0.self_attn.o_proj")";

TEST(Dialect, ConfigOfFp8) {
  EXPECT_EQ(
      Config("dialect: fp8\n" + kStatic + kCalibration),
      R"({"activation_scheme":"static","ignored_layers":[)" + kKept + R"(],"quant_method":"fp8"})");
  EXPECT_EQ(Config("dialect: fp8\n" + kStatic + kCache + kCalibration),
            R"({"activation_scheme":"static","ignored_layers":[)" + kKept +
                R"(],"kv_cache_scheme":"static","quant_method":"fp8","export":{)"
                R"("kv_cache_group":["*k_proj","*v_proj"],"min_kv_scale":0.0,)"
                R"("pack_method":"reorder","weight_format":"real_quantized",)"
                R"("weight_merge_groups":null}})");
  EXPECT_EQ(Config("dialect: fp8\nrules:\n  - weight: {type: fp8, scale: tensor}\n"
                   "    input: {type: fp8, scale: token}\n"),
            R"({"activation_scheme":"dynamic","ignored_layers":["lm_head",)"
            R"("model.layers.0.block_sparse_moe.gate"],"quant_method":"fp8"})");
  EXPECT_EQ(Config("dialect: fp8\nrules:\n"
                   "  - weight: {type: fp8, scale: block, block: [128, 128]}\n"
                   "    input: {type: fp8, scale: group, group: 128}\n"),
            R"({"activation_scheme":"dynamic","ignored_layers":["lm_head",)"
            R"("model.layers.0.block_sparse_moe.gate"],"quant_method":"fp8",)"
            R"("modules_to_not_convert":["lm_head","model.layers.0.block_sparse_moe.gate"],)"
            R"("weight_block_size":[128,128]})");
}

TEST(Dialect, OnlyQuarkHasAnExportSection) {
  const auto exported = [](const std::string& compat, const std::string& cache) {
    const ordered_json config = ordered_json::parse(
        Config("dialect: fp8\ncompat: " + compat + "\n" + kStatic + cache + kCalibration));
    EXPECT_EQ(config["quant_method"], "fp8");
    EXPECT_EQ(config.value("kv_cache_scheme", ""), cache.empty() ? "" : "static");
    return config.value("export", ordered_json()).value("kv_cache_group", ordered_json("none"));
  };
  for (const char* quark : {"quark-2024", "quark-0.13"}) {
    EXPECT_EQ(exported(quark, ""), ordered_json::array());
    EXPECT_EQ(exported(quark, kCache), ordered_json({"*k_proj", "*v_proj"}));
  }
  EXPECT_EQ(ordered_json::parse(
                Config("dialect: fp8\ncompat: autofp8\n" + kStatic + kCache + kCalibration))
                .count("export"),
            0u);
}

TEST(Dialect, ConfigOfCompressedTensors) {
  const ordered_json config =
      ordered_json::parse(Config(kStatic + kCache +
                                 "calibration: {observer: percentile, percentile: 99.9, "
                                 "samples: 2, sample_length: 3}\n"));
  const ordered_json args = ordered_json::parse(
      R"({"num_bits":8,"type":"float","symmetric":true,"group_size":null,"block_structure":null,)"
      R"("strategy":"tensor","dynamic":false,"actorder":null,"observer":"percentile",)"
      R"("observer_kwargs":{}})");
  const ordered_json& group = config["config_groups"]["group_0"];
  EXPECT_EQ(group["input_activations"], args);
  EXPECT_EQ(config["kv_cache_scheme"], args);
  ordered_json weights = args;
  weights["observer"] = "minmax";
  EXPECT_EQ(group["weights"], weights);
  EXPECT_EQ(group["targets"], ordered_json({"Linear"}));
  EXPECT_EQ(config["format"], "float-quantized");
  EXPECT_EQ(config["ignore"].dump(), "[" + kKept + "]");
  EXPECT_TRUE(ordered_json::parse(Config(kStatic + kCalibration))["kv_cache_scheme"].is_null());
}

TEST(Dialect, ExpertsAreFoundUnderTheirClassAndOthersByName) {
  const auto recipe = ParseRecipe(
      "name: a\nrules:\n"
      "  - {roles: [o_proj], weight: {type: fp8, scale: channel}}\n"
      "  - {weight: {type: fp8, scale: channel}, input: {type: fp8, scale: token}}\n",
      "a");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  std::vector<v1::ModelTensor> tensors = {
      kQuery, Tensor("model.layers.0.self_attn.o_proj.weight", v1::O_PROJ, {256, 256}),
      Tensor("model.layers.0.block_sparse_moe.experts.0.w1.weight", v1::EXPERT_GATE, {256, 256})};
  tensors[2].set_expert(0);
  const auto schemes = ResolveSchemes(*recipe, tensors);
  ASSERT_TRUE(schemes.ok()) << schemes.status();
  const ordered_json config = QuantizationConfigJson(*recipe, Experts(1), tensors, *schemes);
  EXPECT_EQ(config["config_groups"]["group_0"]["targets"], ordered_json({"Linear"}));
  EXPECT_EQ(config["config_groups"]["group_1"]["targets"],
            ordered_json({"model.layers.0.self_attn.o_proj"}));
}

TEST(Dialect, ConfigOfQuark) {
  const ordered_json config = ordered_json::parse(Config(
      "dialect: quark\n" + kStatic.substr(0, 7) + kStatic.substr(kStatic.find("  - {weight")) +
      kCache + "calibration: {observer: mse, samples: 2, sample_length: 3}\n"));
  const auto spec = [](const char* observer) {
    ordered_json json = ordered_json::parse(
        R"({"dtype":"fp8_e4m3","is_dynamic":false,"qscheme":"per_tensor","ch_axis":null,)"
        R"("group_size":null,"symmetric":null,"round_method":null,"scale_type":null})");
    json["observer_cls"] = observer;
    return json;
  };
  ordered_json layer;
  layer["weight"] = spec("PerTensorMinMaxObserver");
  layer["input_tensors"] = spec("PerTensorMSEObserver");
  layer["output_tensors"] = nullptr;
  layer["bias"] = nullptr;
  layer["target_device"] = nullptr;
  EXPECT_EQ(config["global_quant_config"], layer);
  layer["output_tensors"] = spec("PerTensorMSEObserver");
  EXPECT_EQ(config["layer_quant_config"], ordered_json({{"*k_proj", layer}, {"*v_proj", layer}}));
  EXPECT_EQ(config["export"]["kv_cache_group"], ordered_json({"*k_proj", "*v_proj"}));
  EXPECT_EQ(config["export"]["weight_format"], "real_quantized");
  EXPECT_EQ(config["exclude"], ordered_json({"lm_head", "model.layers.0.block_sparse_moe.gate"}));
  EXPECT_EQ(config["quant_method"], "quark");
  for (const char* key : {"layer_type_quant_config", "layer_quant_config", "export"}) {
    EXPECT_TRUE(config[key].is_object()) << key;
  }
  const ordered_json plain =
      ordered_json::parse(Config("dialect: quark\n" + kStatic + kCalibration));
  EXPECT_EQ(plain["export"]["kv_cache_group"], ordered_json::array());
  EXPECT_TRUE(plain["layer_quant_config"].empty());
  EXPECT_EQ(plain["exclude"].dump(), "[" + kKept + "]");
}

}  // namespace
}  // namespace octavo
