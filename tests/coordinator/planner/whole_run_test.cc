// A whole job in one process: plan, stage, run every unit in some order, finish, publish.

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "coordinator/planner/publish.h"
#include "coordinator/planner/quantize_plan.h"
#include "core/base/error.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"
#include "worker/stage/quantize.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

struct Made {
  v1::Job job;
  v1::Plan plan;
  std::vector<v1::Receipt> receipts;
};

v1::Recipe Custom(const std::string& rules) {
  const auto recipe = ParseRecipe("name: custom\nrules:\n" + rules, "custom.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

Made Prepare(const std::string& source, const std::string& output, const v1::Recipe& recipe) {
  Made made;
  const auto checkpoint = OpenCheckpoint(source);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto plan = BuildPlan(*checkpoint, recipe);
  EXPECT_TRUE(plan.ok()) << plan.status();
  made.plan = *plan;
  made.job.set_id("job");
  made.job.mutable_request()->set_source_dir(source);
  made.job.mutable_request()->set_output_dir(output);
  made.job.set_staging_dir(output + ".octavo/job");
  for (const auto& file : checkpoint->files) *made.job.add_sources() = file;
  return made;
}

// Runs all units, phase by phase, in an order shuffled by `seed`.
absl::Status RunUnits(Made* made, uint32_t seed, Isa isa = BestIsa(),
                      uint64_t buffer_bytes = 64u << 20) {
  QuantizeStage stage({.buffer_bytes = buffer_bytes, .isa = isa});
  std::vector<uint32_t> order(made->plan.units_size());
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return made->plan.units(a).phase() < made->plan.units(b).phase();
  });
  for (const uint32_t unit : order) {
    const uint32_t phase = made->plan.units(unit).phase();
    std::vector<v1::TieStat> stats;
    if (phase > 0) stats = MergeStats(made->plan, phase - 1, made->receipts);
    const v1::Task task = MakeTask(made->job, made->plan, unit, 1, stats);
    stage.Prefetch(task);
    auto receipt = stage.Run(task, {});
    if (!receipt.ok()) return receipt.status();
    made->receipts.push_back(*std::move(receipt));
  }
  EXPECT_EQ(stage.buffer_bytes_in_use(), 0u);
  EXPECT_LE(stage.buffer_bytes_peak(), buffer_bytes);
  return stage.SyncTouched();
}

absl::Status WholeRun(const std::string& source, const std::string& output,
                      const v1::Recipe& recipe, uint32_t seed, Isa isa = BestIsa(),
                      uint64_t buffer_bytes = 64u << 20) {
  Made made = Prepare(source, output, recipe);
  if (absl::Status s = CheckPlaces(source, output); !s.ok()) return s;
  if (absl::Status s = StageFolder(made.job, made.plan); !s.ok()) return s;
  if (absl::Status s = RunUnits(&made, seed, isa, buffer_bytes); !s.ok()) return s;
  if (absl::Status s = FinishFolder(made.job, made.plan, made.receipts); !s.ok()) return s;
  if (absl::Status s = PublishFolder(made.job.staging_dir(), output, false); !s.ok()) return s;
  return RemoveFolder(output + ".octavo");
}

std::map<std::string, std::string> Contents(const std::string& dir) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    out[entry.path().filename().native()] = ReadText(entry.path());
  }
  return out;
}

std::vector<float> Values(const std::string& dir, const v1::TensorSpec& spec) {
  const std::string bytes = ReadText(std::filesystem::path(dir) / spec.file())
                                .substr(spec.begin(), spec.end() - spec.begin());
  const size_t size = ByteSize(FromProto(spec.dtype()));
  std::vector<float> values(bytes.size() / size);
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + i * size, size);
    switch (spec.dtype()) {
      case v1::BF16:
        values[i] = F32FromBf16(static_cast<uint16_t>(bits));
        break;
      case v1::F16:
        values[i] = F32FromF16(static_cast<uint16_t>(bits));
        break;
      case v1::F8_E4M3:
        values[i] = F32FromFp8(static_cast<uint8_t>(bits));
        break;
      case v1::I8:
        values[i] = static_cast<int8_t>(bits);
        break;
      default:
        values[i] = FloatFromBits(bits);
    }
  }
  return values;
}

// Reads both folders and checks every value of every tensor.
void ExpectFaithful(const std::string& source, const std::string& output, int quantized_wanted) {
  const auto before = OpenCheckpoint(source);
  const auto after = OpenCheckpoint(output);
  ASSERT_TRUE(after.ok()) << after.status();
  const auto quantization = ReadQuantization(after->config, after->tensors);
  ASSERT_TRUE(quantization.ok()) << quantization.status();
  std::map<std::string, v1::TensorSpec> sources;
  for (const auto& tensor : before->tensors) sources[tensor.spec().name()] = tensor.spec();
  sources.try_emplace("lm_head.weight", sources.at("model.embed_tokens.weight"));  // tied
  int quantized = 0;
  for (size_t t = 0; t < after->tensors.size(); ++t) {
    const TensorQuantization& q = quantization->tensors[t];
    const v1::TensorSpec& spec = after->tensors[t].spec();
    if (q.is_scale) continue;
    const auto want = Values(source, sources.at(spec.name()));
    const auto got = Values(output, spec);
    ASSERT_EQ(want.size(), got.size());
    if (!q.quantized) {
      EXPECT_EQ(want, got) << spec.name();
      continue;
    }
    ++quantized;
    const auto scales = Values(output, q.scale);
    const int64_t columns = spec.shape(1);
    const int64_t scale_columns = (columns + 127) / 128;
    const bool is_int = q.scheme.weight().type() == v1::NUMERIC_INT8;
    int bad = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / columns;
      const auto column = static_cast<int64_t>(i) % columns;
      const float scale = scales.size() == 1 ? scales[0]
                          : q.scheme.weight().granularity() == v1::PER_BLOCK
                              ? scales[row / 128 * scale_columns + column / 128]
                              : scales[row];
      const float error = std::fabs(got[i] * scale - want[i]);
      // Half a step; the clipped end may lose up to the rounding of the stored scale (2^-8).
      const float bound =
          is_int ? scale * 1.01f : std::fabs(want[i]) * 0x1p-4f + scale * 0x1p-10f * 1.001f;
      bad += !(error <= bound) || !(scale > 0);
    }
    EXPECT_EQ(bad, 0) << spec.name();
  }
  EXPECT_EQ(quantized, quantized_wanted);
}

TEST(WholeRun, EveryPresetIsFaithfulAndIndependentOfOrder) {
  const TestFolder folder;
  WriteTinyLlama({.hidden = 136, .intermediate = 300, .shards = 2, .tied = false}, folder / "src");
  for (const std::string_view name : PresetNames()) {
    if (Preset(name)->has_calibration()) continue;
    const std::string a = folder / (std::string(name) + "-a");
    const std::string b = folder / (std::string(name) + "-b");
    const auto first = WholeRun(folder / "src", a, *Preset(name), 1);
    ASSERT_TRUE(first.ok()) << first;
    const auto second = WholeRun(folder / "src", b, *Preset(name), 2, Isa::kReference);
    ASSERT_TRUE(second.ok()) << second;
    EXPECT_EQ(Contents(a), Contents(b)) << name;
    // Least squared error may clip the largest weights.
    if (Preset(name)->rules(0).algorithm() == v1::ABSMAX) ExpectFaithful(folder / "src", a, 14);
    EXPECT_FALSE(std::filesystem::exists(a + ".octavo"));
  }
}

TEST(WholeRun, AnEightBitHeadIsTheModelsOwn) {
  const std::string layers = "  - {weight: {type: fp8, scale: channel}}\n";
  for (const bool tied : {false, true}) {
    const TestFolder folder;
    WriteTinyLlama({.shards = 2, .tied = tied}, folder / "src");
    for (const char* scheme :
         {"weight: {type: int8, scale: channel}, input: {type: int8, scale: token}",
          "weight: {type: fp8, scale: tensor}"}) {
      const auto recipe = Custom(fmt::format("  - {{roles: [lm_head], {}}}\n{}", scheme, layers));
      const std::string a = folder / "a", b = folder / "b";
      ASSERT_TRUE(WholeRun(folder / "src", a, recipe, 1).ok());
      ASSERT_TRUE(WholeRun(folder / "src", b, recipe, 2, Isa::kReference).ok());
      EXPECT_EQ(Contents(a), Contents(b)) << scheme;
      ExpectFaithful(folder / "src", a, 15);
      EXPECT_FALSE(OpenCheckpoint(a)->model.tied_embeddings());
      for (const std::string& made : {a, b}) std::filesystem::remove_all(made);
    }
  }
}

TEST(WholeRun, SourceTypes) {
  const TestFolder folder;
  for (const DType dtype : {DType::kF16, DType::kF32}) {
    const std::string source = folder / ("src" + std::to_string(static_cast<int>(dtype)));
    WriteTinyLlama({.layers = 1, .dtype = dtype}, source);
    for (const std::string_view name : {"fp8-dynamic", "int8-dynamic"}) {
      const std::string output = source + "-" + std::string(name);
      const auto status = WholeRun(source, output, *Preset(name), 3);
      ASSERT_TRUE(status.ok()) << status;
      ExpectFaithful(source, output, 7);
    }
  }
}

TEST(WholeRun, TiedScalesInOneUnitAndInPhases) {
  const TestFolder folder;
  WriteTinyLlama({.layers = 1}, folder / "small");
  WriteTinyLlama({.hidden = 1024, .intermediate = 8300, .layers = 1, .heads = 8, .kv_heads = 4},
                 folder / "big");
  for (const std::string source : {"small", "big"}) {
    for (const std::string algorithm : {"absmax", "mse"}) {
      const auto recipe =
          Custom("  - weight: {type: fp8, scale: tensor}\n    algorithm: " + algorithm + "\n");
      const std::string a = folder / (source + algorithm + "a");
      const std::string b = folder / (source + algorithm + "b");
      ASSERT_TRUE(WholeRun(folder / source, a, recipe, 4).ok());
      ASSERT_TRUE(WholeRun(folder / source, b, recipe, 5).ok());
      EXPECT_EQ(Contents(a), Contents(b));
      if (algorithm == "absmax") ExpectFaithful(folder / source, a, 7);
      const auto checkpoint = OpenCheckpoint(a);
      ASSERT_TRUE(checkpoint.ok());
      std::map<std::string, float> scales;
      for (const auto& tensor : checkpoint->tensors) {
        const std::string& name = tensor.spec().name();
        if (IsScaleName(name)) scales[name] = Values(a, tensor.spec()).at(0);
      }
      const std::string at = "model.layers.0.";
      EXPECT_EQ(scales.at(at + "self_attn.q_proj.weight_scale"),
                scales.at(at + "self_attn.v_proj.weight_scale"));
      EXPECT_EQ(scales.at(at + "mlp.gate_proj.weight_scale"),
                scales.at(at + "mlp.up_proj.weight_scale"));
    }
  }
}

TEST(WholeRun, TightBuffersGiveTheSameBytesOrSayWhatIsMissing) {
  const TestFolder folder;
  WriteTinyLlama({.hidden = 512, .intermediate = 1024, .layers = 1}, folder / "src");
  ASSERT_TRUE(WholeRun(folder / "src", folder / "a", *Preset("fp8-block"), 1).ok());
  const auto tight =
      WholeRun(folder / "src", folder / "b", *Preset("fp8-block"), 1, BestIsa(), 3u << 20);
  ASSERT_TRUE(tight.ok()) << tight;
  EXPECT_EQ(Contents(folder / "a"), Contents(folder / "b"));
  const auto refused =
      WholeRun(folder / "src", folder / "c", *Preset("fp8-block"), 1, BestIsa(), 1u << 20);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(ReasonOf(refused), Reason::kOutOfMemory);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1048576 are allowed"));
}

TEST(WholeRun, UnitsMayRunTwiceAndStagingTwice) {
  const TestFolder folder;
  WriteTinyLlama({}, folder / "src");
  Made made = Prepare(folder / "src", folder / "out", *Preset("fp8-dynamic"));
  ASSERT_TRUE(StageFolder(made.job, made.plan).ok());
  ASSERT_TRUE(RunUnits(&made, 1).ok());
  const std::vector<v1::Receipt> first = made.receipts;
  made.receipts.clear();
  ASSERT_TRUE(StageFolder(made.job, made.plan).ok());
  // Staging again keeps what units wrote: the first receipts are still true.
  ASSERT_TRUE(FinishFolder(made.job, made.plan, first).ok());
  const auto once = Contents(made.job.staging_dir());
  ASSERT_TRUE(RunUnits(&made, 7).ok());
  ASSERT_TRUE(FinishFolder(made.job, made.plan, made.receipts).ok());
  EXPECT_EQ(Contents(made.job.staging_dir()), once);
}

TEST(WholeRun, LooksAtTheOutput) {
  const TestFolder folder;
  WriteTinyLlama({}, folder / "src");
  const std::string out = folder / "out";
  const Made made = Prepare(folder / "src", out, *Preset("fp8-dynamic"));
  EXPECT_EQ(LookAtOutput(out, made.plan)->state, OutputState::kAbsent);
  ASSERT_TRUE(WholeRun(folder / "src", out, *Preset("fp8-dynamic"), 1).ok());
  EXPECT_EQ(LookAtOutput(out, made.plan)->state, OutputState::kSame);

  const Made other = Prepare(folder / "src", out, *Preset("int8-dynamic"));
  const auto different = LookAtOutput(out, other.plan);
  EXPECT_EQ(different->state, OutputState::kDifferent);
  EXPECT_EQ(different->found, "made with recipe fp8-dynamic");
  const auto refused = WholeRun(folder / "src", out, *Preset("int8-dynamic"), 1);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(ReasonOf(refused), Reason::kOutputExists);

  WriteText(out + "/tokenizer.json", "{}");
  EXPECT_THAT(LookAtOutput(out, made.plan)->found,
              HasSubstr("damaged: tokenizer.json has 2 bytes"));
  std::filesystem::remove(out + "/model.safetensors");
  WriteText(out + "/tokenizer.json", ReadText(folder / "src/tokenizer.json"));
  EXPECT_THAT(LookAtOutput(out, made.plan)->found, HasSubstr("model.safetensors is missing"));
  std::filesystem::create_directory(folder / "empty");
  EXPECT_EQ(LookAtOutput(folder / "empty", made.plan)->found, "an empty folder");
}

TEST(Stage, ChangedOrVanishedSourceIsRefused) {
  const TestFolder folder;
  WriteTinyLlama({}, folder / "src");
  Made made = Prepare(folder / "src", folder / "out", *Preset("fp8-dynamic"));
  ASSERT_TRUE(StageFolder(made.job, made.plan).ok());
  const std::string path = folder / "src/model.safetensors";
  const std::string bytes = ReadText(path);
  WriteText(path, bytes);
  const timespec times[2] = {{1'000'000'000, 0}, {1'000'000'000, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  auto status = RunUnits(&made, 1);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kSourceChanged);
  EXPECT_THAT(std::string(status.message()), HasSubstr(path));
  WriteText(path, bytes.substr(0, bytes.size() - 1));
  status = RunUnits(&made, 1);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kSourceChanged);
  std::filesystem::remove(path);
  status = RunUnits(&made, 1);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kInputMissing);
}

TEST(Stage, NanNamesTensorAndPlace) {
  const TestFolder folder;
  WriteTinyLlama({}, folder / "src");
  const auto checkpoint = OpenCheckpoint(folder / "src");
  uint64_t at = 0;
  for (const auto& tensor : checkpoint->tensors) {
    if (tensor.spec().name() == "model.layers.1.mlp.up_proj.weight")
      at = tensor.spec().begin() + 10;
  }
  const std::string path = folder / "src/model.safetensors";
  std::string bytes = ReadText(path);
  bytes[at] = '\xc0';
  bytes[at + 1] = '\x7f';
  WriteText(path, bytes);
  const auto status = WholeRun(folder / "src", folder / "out", *Preset("fp8-dynamic"), 1);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kNonFinite);
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.layers.1.mlp.up_proj.weight"));
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(at)));
}

TEST(Stage, StopsAndMissesItsStaging) {
  const TestFolder folder;
  WriteTinyLlama({}, folder / "src");
  Made made = Prepare(folder / "src", folder / "out", *Preset("fp8-dynamic"));
  QuantizeStage stage({});
  const v1::Task task = MakeTask(made.job, made.plan, 0, 1, {});
  EXPECT_EQ(ReasonOf(stage.Run(task, {}).status()), Reason::kFenced);
  ASSERT_TRUE(StageFolder(made.job, made.plan).ok());
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(ReasonOf(stage.Run(task, stop.get_token()).status()), Reason::kCancelled);
  EXPECT_EQ(stage.buffer_bytes_in_use(), 0u);
}

TEST(Finish, RefusesMissingAndDoubleReceipts) {
  const TestFolder folder;
  WriteTinyLlama({}, folder / "src");
  Made made = Prepare(folder / "src", folder / "out", *Preset("fp8-dynamic"));
  ASSERT_TRUE(StageFolder(made.job, made.plan).ok());
  ASSERT_TRUE(RunUnits(&made, 1).ok());
  auto twice = made.receipts;
  twice.push_back(twice.front());
  EXPECT_EQ(ReasonOf(FinishFolder(made.job, made.plan, twice)), Reason::kInternal);
  auto fewer = made.receipts;
  fewer.pop_back();
  EXPECT_EQ(ReasonOf(FinishFolder(made.job, made.plan, fewer)), Reason::kInternal);
  auto holes = made.receipts;
  holes[0].mutable_ranges()->RemoveLast();
  const auto status = FinishFolder(made.job, made.plan, holes);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("do not"));
}

}  // namespace
}  // namespace octavo
