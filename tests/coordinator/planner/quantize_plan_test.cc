#include "coordinator/planner/quantize_plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "coordinator/planner/estimate.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/safetensors.h"
#include "core/checkpoint/synth.h"
#include "core/scheme/recipe.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/ranges.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

v1::Recipe Custom(const std::string& rules) {
  const auto recipe = ParseRecipe("name: custom\nrules:\n" + rules, "custom.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

// Presets that need no calibration, and the other dialect that is written without one.
std::vector<v1::Recipe> DataFree() {
  std::vector<v1::Recipe> recipes;
  for (const std::string_view name : PresetNames()) {
    if (!Preset(name)->has_calibration()) recipes.push_back(*Preset(name));
  }
  recipes.push_back(
      Custom("  - weight: {type: fp8, scale: tensor}\n    input: {type: fp8, scale: token}\n"
             "dialect: fp8\n"));
  recipes.push_back(
      Custom("  - weight: {type: fp8, scale: block, block: [128, 128]}\n"
             "    input: {type: fp8, scale: group, group: 128}\ndialect: fp8\n"));
  return recipes;
}

v1::Plan PlanOf(const TinyLlama& tiny, const v1::Recipe& recipe) {
  const TestFolder folder;
  WriteTinyLlama(tiny, folder / "src");
  const auto checkpoint = OpenCheckpoint(folder / "src");
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto plan = BuildPlan(*checkpoint, recipe);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

// Every byte of every output file belongs to its head or to exactly one piece.
void ExpectTiled(const v1::Plan& plan) {
  std::map<uint32_t, std::vector<std::pair<uint64_t, uint64_t>>> ranges;
  for (int i = 0; i < plan.outputs_size(); ++i) {
    ranges[i].push_back({0, plan.outputs(i).head().size()});
  }
  for (const v1::Unit& unit : plan.units()) {
    for (const v1::Piece& piece : unit.pieces()) {
      for (const v1::FileRange* range : {&piece.weight_out(), &piece.scale_out()}) {
        if (range->end() > range->begin()) {
          ranges[range->file()].push_back({range->begin(), range->end()});
        }
      }
    }
  }
  for (auto& [file, list] : ranges) {
    std::sort(list.begin(), list.end());
    uint64_t at = 0;
    for (const auto& [begin, end] : list) {
      ASSERT_EQ(begin, at) << plan.outputs(file).name();
      at = end;
    }
    EXPECT_EQ(at, plan.outputs(file).size()) << plan.outputs(file).name();
  }
}

void ExpectSaneUnits(const v1::Plan& plan) {
  uint32_t phase = 0;
  for (int i = 0; i < plan.units_size(); ++i) {
    const v1::Unit& unit = plan.units(i);
    EXPECT_EQ(unit.id(), static_cast<uint32_t>(i));
    EXPECT_GE(unit.phase(), phase);
    phase = unit.phase();
    EXPECT_LE(unit.source_bytes(), kUnitSourceBytesMax);
    EXPECT_GT(unit.source_bytes(), 0u);
    uint64_t bytes = 0;
    for (const v1::Piece& piece : unit.pieces()) {
      const auto& shape = piece.source().shape();
      const int64_t rows = shape.size() == 2 ? shape[0] : 1;
      EXPECT_EQ(piece.row_begin() % kUnitRowMultiple, 0);
      EXPECT_TRUE(piece.row_end() % kUnitRowMultiple == 0 || piece.row_end() == rows);
      bytes += (piece.source().end() - piece.source().begin()) / rows *
               (piece.row_end() - piece.row_begin());
    }
    EXPECT_EQ(bytes, unit.source_bytes());
  }
}

TEST(BuildPlan, SameBytesOnRepeatAndTilesFiles) {
  for (const int shards : {1, 3}) {
    for (const v1::Recipe& recipe : DataFree()) {
      const TinyLlama tiny{.shards = shards, .tied = shards == 3};
      const v1::Plan plan = PlanOf(tiny, recipe);
      EXPECT_EQ(plan.SerializeAsString(), PlanOf(tiny, recipe).SerializeAsString());
      ExpectTiled(plan);
      ExpectSaneUnits(plan);
      EXPECT_EQ(UnitsPerPhase(plan).size(), 1u);
    }
  }
}

TEST(BuildPlan, OddShapes) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const TinyLlama tiny{.hidden = 132,
                         .intermediate = 333,
                         .layers = 1,
                         .heads = 2,
                         .kv_heads = 1,
                         .vocab = 7,
                         .dtype = dtype};
    for (const v1::Recipe& recipe : DataFree()) {
      const v1::Plan plan = PlanOf(tiny, recipe);
      ExpectTiled(plan);
      ExpectSaneUnits(plan);
      const bool blocks = recipe.rules(0).scheme().weight().granularity() == v1::PER_BLOCK;
      EXPECT_EQ(plan.warnings_size(), blocks ? 7 : 0);
    }
  }
}

TEST(BuildPlan, MirrorsShardsAndKeepsScalesBesideWeights) {
  const v1::Plan plan = PlanOf({.shards = 3}, *Preset("fp8-dynamic"));
  ASSERT_EQ(plan.outputs_size(), 5);
  EXPECT_EQ(plan.outputs(0).name(), "model-00001-of-00003.safetensors");
  EXPECT_EQ(plan.outputs(2).name(), "model-00003-of-00003.safetensors");
  EXPECT_EQ(plan.outputs(3).name(), "config.json");
  EXPECT_EQ(plan.outputs(4).name(), "model.safetensors.index.json");
  std::set<std::string> names;
  for (int i = 0; i < 3; ++i) {
    const auto tensors = ParseHeader(plan.outputs(i).head(), plan.outputs(i).size(), "f");
    ASSERT_TRUE(tensors.ok()) << tensors.status();
    std::set<std::string> here;
    for (const auto& spec : *tensors) here.insert(spec.name());
    for (const std::string& name : here) {
      if (!name.ends_with("_proj.weight")) continue;
      EXPECT_TRUE(here.contains(name + "_scale")) << name;
    }
    names.merge(here);
  }
  EXPECT_EQ(names.size(), 2u + 2 * (2 + 7 * 2));
  EXPECT_THAT(plan.outputs(4).head(), HasSubstr("model.layers.1.mlp.up_proj.weight_scale"));
  EXPECT_EQ(plan.side_files_size(), 1);
  EXPECT_EQ(plan.side_files(0).name(), "tokenizer.json");
  for (const auto& source : plan.sources()) EXPECT_EQ(source.mtime_ns(), 0);
}

TEST(BuildPlan, ConfigKeepsKeysAndSaysHow) {
  const v1::Plan plan = PlanOf({}, *Preset("fp8-dynamic"));
  const auto config = ParseJsonObject(plan.outputs(1).head(), "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->begin().key(), "architectures");
  EXPECT_TRUE((*config)["x_unknown"]["kept"] == true);
  const auto& quantization = (*config)["quantization_config"];
  EXPECT_EQ(quantization["quant_method"], "compressed-tensors");
  EXPECT_EQ(quantization["format"], "float-quantized");
  EXPECT_EQ(quantization["ignore"], nlohmann::ordered_json({"lm_head"}));
  const auto& group = quantization["config_groups"]["group_0"];
  EXPECT_EQ(group["targets"], nlohmann::ordered_json({"Linear"}));
  EXPECT_EQ(group["weights"]["strategy"], "channel");
  EXPECT_EQ(group["input_activations"]["strategy"], "token");
  EXPECT_EQ(group["input_activations"]["dynamic"], true);
  const std::string text = quantization.dump();
  EXPECT_EQ(text.find("scale_dtype"), std::string::npos);
  EXPECT_EQ(text.find("sparsity_config"), std::string::npos);
}

TEST(BuildPlan, StackedExpertsHaveAScaleEach) {
  SynthSpec synth;
  synth.model.set_family("dbrx");
  synth.model.set_layer_count(2);
  synth.model.set_hidden_size(1024);
  synth.model.set_intermediate_size(520);
  synth.model.set_head_count(8);
  synth.model.set_kv_head_count(2);
  synth.model.set_vocab_size(300);
  synth.model.set_expert_count(4);
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(synth, 3, folder / "src").ok());
  const auto checkpoint = OpenCheckpoint(folder / "src");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const v1::Recipe recipe = Custom(
      "  - weight: {type: fp8, scale: tensor}\n    input: {type: fp8, scale: token}\n"
      "dialect: fp8\n");
  const auto plan = BuildPlan(*checkpoint, recipe);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ExpectTiled(*plan);
  EXPECT_EQ(plan->tie_group_count(), 2u * (2 + 4 + 4));  // Wqkv, out_proj; gate/up, down
  std::map<std::string, std::set<uint64_t>> scales;      // where they lie
  std::map<int32_t, std::set<std::pair<std::string, int64_t>>> members;
  for (const v1::Unit& unit : plan->units()) {
    for (const v1::Piece& piece : unit.pieces()) {
      const std::string& name = piece.source().name();
      if (name.find(".experts.") == name.npos) continue;
      EXPECT_EQ(piece.row_begin() / 520, (piece.row_end() - 1) / 520) << "two experts in a piece";
      members[piece.tie_group()].insert({name, piece.row_begin() / 520});
      const uint64_t bytes = piece.scale_out().end() - piece.scale_out().begin();
      EXPECT_EQ(bytes, unit.kind() == v1::UNIT_CAST && piece.row_begin() % 520 == 0 ? 4u : 0u);
      if (bytes > 0) scales[name].insert(piece.scale_out().begin());
    }
  }
  EXPECT_EQ(scales.size(), 6u);
  for (const auto& [name, places] : scales) {
    EXPECT_EQ(places.size(), 4u) << name;
    EXPECT_EQ(*places.rbegin() - *places.begin(), 12u) << name;
  }
  for (const auto& [tie_group, runs] : members) {
    for (const auto& [name, expert] : runs) EXPECT_EQ(expert, runs.begin()->second);
    EXPECT_EQ(runs.size(), runs.begin()->first.ends_with("w2") ? 1u : 2u);
  }
  const auto header = ParseHeader(plan->outputs(0).head(), plan->outputs(0).size(), "out");
  ASSERT_TRUE(header.ok()) << header.status();
  std::map<std::string, std::string> shapes;
  for (const v1::TensorSpec& spec : *header) {
    shapes[spec.name()] =
        fmt::format("{} [{}]", Name(FromProto(spec.dtype())), fmt::join(spec.shape(), ", "));
  }
  const std::string stack = "transformer.blocks.1.ffn.experts.mlp.v1";
  EXPECT_EQ(shapes[stack + "_weight"], "F8_E4M3 [2080, 1024]");
  EXPECT_EQ(shapes[stack + "_weight_scale"], "F32 [4]");
  EXPECT_FALSE(shapes.contains(stack));
}

TEST(BuildPlan, SmallTieGroupsStayInOneUnit) {
  const v1::Plan plan =
      PlanOf({.layers = 3}, Custom("  - weight: {type: fp8, scale: tensor}\n    algorithm: mse\n"));
  EXPECT_EQ(UnitsPerPhase(plan).size(), 1u);
  EXPECT_EQ(plan.tie_group_count(), 3u * 4);  // q/k/v, o, gate/up, down
  ExpectTiled(plan);
  std::map<int, std::set<std::pair<int, std::string>>> members;
  for (const v1::Unit& unit : plan.units()) {
    for (const v1::Piece& piece : unit.pieces()) {
      if (piece.tie_group() >= 0) {
        members[piece.tie_group()].insert({unit.id(), piece.source().name()});
      }
    }
  }
  for (const auto& [group, names] : members) {
    std::set<int> units;
    for (const auto& [unit, name] : names) units.insert(unit);
    EXPECT_EQ(units.size(), 1u);
    const std::string& first = names.begin()->second;
    const size_t expected = first.find("self_attn.o_proj") != std::string::npos ||
                                    first.find("down_proj") != std::string::npos
                                ? 1
                            : first.find("mlp.") != std::string::npos ? 2
                                                                      : 3;
    EXPECT_EQ(names.size(), expected) << first;
  }
}

TEST(BuildPlan, CompatibilityModesTieNothing) {
  v1::Recipe recipe = Custom("  - weight: {type: fp8, scale: tensor}\n");
  recipe.set_compat(v1::COMPAT_LLM_COMPRESSOR);
  const v1::Plan plan = PlanOf({.layers = 3}, recipe);
  EXPECT_EQ(plan.tie_group_count(), 3u * 7);
  ExpectTiled(plan);
  EXPECT_EQ(MakeTask({}, plan, 0, 1, {}).compat(), v1::COMPAT_LLM_COMPRESSOR);
}

TEST(BuildPlan, LargeTieGroupsTakePhases) {
  const TinyLlama big{.hidden = 1024, .intermediate = 8300, .layers = 1, .heads = 8, .kv_heads = 4};
  const v1::Plan absmax = PlanOf(big, Custom("  - weight: {type: fp8, scale: tensor}\n"));
  EXPECT_EQ(UnitsPerPhase(absmax).size(), 2u);
  ExpectTiled(absmax);
  ExpectSaneUnits(absmax);
  const v1::Plan mse =
      PlanOf(big, Custom("  - weight: {type: fp8, scale: tensor}\n    algorithm: mse\n"));
  EXPECT_EQ(UnitsPerPhase(mse).size(), 3u);
  ExpectTiled(mse);
  ExpectSaneUnits(mse);
  std::set<std::pair<int, int>> kinds;
  for (const v1::Unit& unit : mse.units()) kinds.insert({unit.phase(), unit.kind()});
  EXPECT_EQ(kinds, (std::set<std::pair<int, int>>{{0, v1::UNIT_STAT_AMAX},
                                                  {0, v1::UNIT_CAST},
                                                  {1, v1::UNIT_STAT_MSE},
                                                  {2, v1::UNIT_CAST}}));
  const auto per_phase = UnitsPerPhase(mse);
  std::vector<uint32_t> done(per_phase.size());
  EXPECT_TRUE(UnitReady(mse, per_phase, done, 0));
  EXPECT_FALSE(UnitReady(mse, per_phase, done, per_phase[0]));
  done[0] = per_phase[0];
  EXPECT_TRUE(UnitReady(mse, per_phase, done, per_phase[0]));
  EXPECT_FALSE(UnitReady(mse, per_phase, done, mse.units_size() - 1));
}

TEST(MergeStats, MaximumAndTreeInUnitOrder) {
  const TinyLlama big{.hidden = 1024, .intermediate = 8300, .layers = 1, .heads = 8, .kv_heads = 4};
  const v1::Plan plan =
      PlanOf(big, Custom("  - weight: {type: fp8, scale: tensor}\n    algorithm: mse\n"));
  std::vector<v1::Receipt> receipts;
  double value = 0.1;
  for (const v1::Unit& unit : plan.units()) {
    v1::Receipt& receipt = receipts.emplace_back();
    receipt.set_unit_id(unit.id());
    if (unit.kind() == v1::UNIT_CAST || unit.kind() == v1::UNIT_COPY) continue;
    for (int i = 0; i < unit.pieces_size(); ++i) {
      v1::PieceStat* stat = receipt.add_stats();
      stat->set_piece(i);
      stat->set_tie_group(unit.pieces(i).tie_group());
      if (unit.kind() == v1::UNIT_STAT_AMAX) stat->set_amax_bits(100 + unit.id() * 10 + i);
      if (unit.kind() == v1::UNIT_STAT_MSE) stat->add_mse_errors(value *= 1.7);
    }
  }
  const auto first = MergeStats(plan, 0, receipts);
  const auto both = MergeStats(plan, 1, receipts);
  std::reverse(receipts.begin(), receipts.end());
  const auto reversed = MergeStats(plan, 1, receipts);
  ASSERT_EQ(first.size(), both.size());
  ASSERT_EQ(reversed.size(), both.size());
  for (size_t i = 0; i < both.size(); ++i) {
    EXPECT_EQ(first[i].mse_errors_size(), 0);
    EXPECT_EQ(first[i].amax_bits(), both[i].amax_bits());
    EXPECT_EQ(both[i].SerializeAsString(), reversed[i].SerializeAsString());
    EXPECT_EQ(both[i].mse_errors_size(), 1);
  }
}

TEST(MakeTask, CarriesWhatTheUnitNeeds) {
  const v1::Plan plan = PlanOf({.shards = 3}, *Preset("fp8-dynamic"));
  v1::Job job;
  job.set_id("j1");
  job.mutable_request()->set_source_dir("/src");
  job.set_staging_dir("/out.octavo/j1");
  for (const auto& source : plan.sources()) {
    *job.add_sources() = source;
    job.mutable_sources(job.sources_size() - 1)->set_mtime_ns(77);
  }
  const v1::Task task = MakeTask(job, plan, 0, 9, {});
  EXPECT_EQ(task.epoch(), 9u);
  EXPECT_EQ(task.job_id(), "j1");
  EXPECT_EQ(task.output_names_size(), plan.outputs_size());
  std::set<std::string> files;
  for (const auto& piece : task.unit().pieces()) files.insert(piece.source().file());
  EXPECT_EQ(task.sources_size(), static_cast<int>(files.size()));
  EXPECT_EQ(task.sources(0).mtime_ns(), 77);
}

TEST(BuildPlan, MixedRecipeNamesModules) {
  const v1::Plan plan = PlanOf(
      {},
      Custom("  - {roles: [o_proj], weight: keep}\n"
             "  - {roles: [down_proj], weight: {type: fp8, scale: channel}}\n"
             "  - {weight: {type: int8, scale: channel}, input: {type: int8, scale: token}}\n"));
  const auto config = ParseJsonObject(plan.outputs(1).head(), "config.json");
  ASSERT_TRUE(config.ok());
  const auto& quantization = (*config)["quantization_config"];
  EXPECT_EQ(quantization["format"], "mixed-precision");
  EXPECT_EQ(quantization["config_groups"].size(), 2u);
  EXPECT_EQ(quantization["ignore"],
            nlohmann::ordered_json(
                {"lm_head", "model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"}));
  ExpectTiled(plan);
}

TEST(Estimate, AddsUpAndNamesTheLimit) {
  const v1::Plan plan = PlanOf({.shards = 3}, *Preset("fp8-dynamic"));
  const Estimate unknown = EstimateJob(plan, {}, {.workers = 2});
  EXPECT_FALSE(unknown.seconds.has_value());
  EXPECT_EQ(unknown.quantized_tensors, 14u);
  EXPECT_EQ(unknown.kept_tensors, 6u);
  EXPECT_EQ(unknown.units, static_cast<uint32_t>(plan.units_size()));
  const Estimate known = EstimateJob(
      plan, {.read = 1e3, .write = 1e9, .disk = 1e9, .cast = 1e9, .verify = 1e9, .cores = 2},
      {.workers = 2});
  ASSERT_TRUE(known.seconds.has_value());
  EXPECT_EQ(known.limit, "read");
  EXPECT_NEAR(*known.seconds, static_cast<double>(plan.source_bytes()) / 1e3, 1);
}

}  // namespace
}  // namespace octavo
