// Jobs that store 2:4 weights as kept codes and bitmasks: what a job that stores them in full
// gives, in less room.

#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/convert_dialect.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "gmock/gmock.h"
#include "tests/coordinator/planner/calibrated_run.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

v1::Recipe Stored(v1::Recipe recipe) {
  recipe.set_storage(v1::STORAGE_SPARSE_24_BITMASK);
  return recipe;
}

std::string Weights(const std::string& dir) {
  return ReadText(std::filesystem::path(dir) / "model.safetensors");
}

// The weights of a job's folder, in full.
std::string InFull(const Made& made, const std::string& scratch) {
  LocalStore store;
  const auto done = ConvertDialect(store, made.job.staging_dir(), "compressed-tensors", scratch);
  EXPECT_TRUE(done.ok()) << done.status();
  return Weights(scratch);
}

// Every byte of the tensor file belongs to its head or to exactly one range of a unit.
void ExpectTiled(const v1::Plan& plan) {
  std::vector<std::pair<uint64_t, uint64_t>> ranges = {{0, plan.outputs(0).head().size()}};
  for (const v1::Unit& unit : plan.units()) {
    uint64_t bytes = 0;
    for (const v1::Piece& piece : unit.pieces()) {
      for (const v1::FileRange* range :
           {&piece.weight_out(), &piece.bitmask_out(), &piece.scale_out()}) {
        bytes += range->end() - range->begin();
        if (range->end() > range->begin()) ranges.push_back({range->begin(), range->end()});
      }
    }
    if (bytes > 0) {
      EXPECT_EQ(unit.output_bytes(), bytes);
    }
  }
  std::sort(ranges.begin(), ranges.end());
  uint64_t at = 0;
  for (const auto& [begin, end] : ranges) {
    ASSERT_EQ(begin, at);
    at = end;
  }
  EXPECT_EQ(at, plan.outputs(0).size());
}

class SolvedBitmask : public ::testing::TestWithParam<const char*> {};

// Layers above the first see what the packed ones below them give: they are read back on the way.
TEST_P(SolvedBitmask, IsTheSolvedFolderWithHalfOfItsCodes) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec(GetParam()), 7, folder / "src").ok());
  const v1::Recipe recipe = *Preset("sparsegpt-24-fp8");
  const auto job = [&](const std::string& name, const v1::Recipe& with) {
    return Prepare(folder / "src", folder / name, with, RandomSamples(12, 3));
  };
  Made full = job("full", recipe);
  Stages stages(BestIsa());
  Finished(&full, &stages, 1);
  Made packed;
  FinishedAlike([&](const std::string& run) { return job("packed-" + run, Stored(recipe)); },
                &packed);
  ExpectTiled(packed.plan);
  EXPECT_EQ(InFull(packed, folder / "again"), Weights(full.job.staging_dir()));
  EXPECT_LT(packed.plan.output_bytes(), full.plan.output_bytes());
  const auto checkpoint = OpenCheckpoint(packed.job.staging_dir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  int halved = 0, quantized = 0;
  for (const v1::ModelTensor& tensor : checkpoint->tensors) {
    quantized += tensor.spec().dtype() == v1::F8_E4M3 ? 1 : 0;
    if (!tensor.spec().has_bitmask()) continue;
    ++halved;
    const int64_t codes = tensor.spec().shape(0) * tensor.spec().shape(1);
    EXPECT_EQ(StoredBytes(tensor.spec()), static_cast<uint64_t>(codes / 2 + codes / 8));
  }
  EXPECT_EQ(halved, quantized);
  EXPECT_GT(halved, 20);
}

INSTANTIATE_TEST_SUITE_P(Families, SolvedBitmask, ::testing::Values("llama", "mixtral"),
                         [](const auto& given) { return std::string(given.param); });

// The largest magnitudes among four source weights have the codes that are not zero.
void ExpectPrunedByMagnitude(const std::string& source, const std::string& codes, int64_t* kept) {
  ASSERT_EQ(source.size(), 2 * codes.size());
  for (size_t four = 0; four < codes.size(); four += 4) {
    float least_kept = INFINITY, most_pruned = 0;
    int count = 0;
    for (size_t i = four; i < four + 4; ++i) {
      uint16_t bits = 0;
      std::memcpy(&bits, source.data() + 2 * i, 2);
      const float magnitude = std::abs(F32FromBf16(bits));
      if ((codes[i] & 0x7f) == 0) {
        most_pruned = std::max(most_pruned, magnitude);
      } else {
        least_kept = std::min(least_kept, magnitude);
        ++count;
      }
    }
    ASSERT_LE(count, 2) << four;
    ASSERT_GE(least_kept, most_pruned) << four;
    *kept += count;
  }
}

// One token: most experts see none, and there is no Hessian to prune them by.
TEST(SolvedBitmask, ExpertsWithTooFewTokensArePrunedByMagnitude) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec("mixtral"), 7, folder / "src").ok());
  v1::Recipe recipe = *Preset("sparsegpt-24-fp8");
  recipe.mutable_calibration()->set_expert_quota(0);
  Made full = Prepare(folder / "src", folder / "full", recipe, RandomSamples(1, 3));
  Made packed = Prepare(folder / "src", folder / "packed", Stored(recipe), RandomSamples(1, 3));
  Stages stages(BestIsa());
  Finished(&full, &stages, 1);
  Finished(&packed, &stages, 2);
  const std::string weights = Weights(full.job.staging_dir());
  EXPECT_EQ(InFull(packed, folder / "again"), weights);
  const std::string source = Weights(folder / "src");
  int64_t kept = 0, codes = 0;
  for (size_t unit = 0; unit < full.receipts.size(); ++unit) {
    const v1::SolveFigures& figures = full.receipts[unit].solved();
    if (!full.receipts[unit].has_solved() || !figures.dampings().empty()) continue;
    EXPECT_EQ(figures.nearest_rows(), figures.rows());
    EXPECT_EQ(figures.error_after(), 0);
    for (const v1::Piece& piece : full.plan.units(static_cast<int>(unit)).pieces()) {
      const auto& [from, to] = std::pair(piece.source(), piece.weight_out());
      ExpectPrunedByMagnitude(source.substr(from.begin(), from.end() - from.begin()),
                              weights.substr(to.begin(), to.end() - to.begin()), &kept);
      codes += static_cast<int64_t>(to.end() - to.begin());
    }
  }
  EXPECT_GT(codes, 10'000);
  EXPECT_GT(kept, codes * 45 / 100);
}

// Sets two of four weights of every matrix of layers to zero, with the sign that they had: what
// multiplying by a mask leaves.
void Prune(const std::string& dir, size_t spare = 0) {
  const std::string path = dir + "/model.safetensors";
  std::string file = ReadText(path);
  const auto checkpoint = OpenCheckpoint(dir);
  ASSERT_TRUE(checkpoint.ok());
  for (const v1::ModelTensor& tensor : checkpoint->tensors) {
    if (!IsQuantizable(tensor.role())) continue;
    for (uint64_t at = tensor.spec().begin(); at < tensor.spec().end(); at += 8) {
      const uint64_t first = at / 8 % 4, second = (first + 1 + at / 32 % 3) % 4;
      if (spare > 0 && tensor.spec().name().ends_with("layers.1.mlp.up_proj.weight") &&
          at == tensor.spec().begin() + 8 * (spare - 1)) {
        continue;
      }
      for (const uint64_t i : {first, second}) {
        file[at + 2 * i] = 0;
        file[at + 2 * i + 1] = static_cast<char>(file[at + 2 * i + 1] & 0x80);
      }
    }
  }
  WriteText(path, file);
}

// Codes that differ in the sign of a zero alone are the same.
bool AlmostSame(const std::string& one, const std::string& other, int* signs) {
  for (size_t i = 0; i < one.size(); ++i) {
    if (one[i] == other[i]) continue;
    if (one[i] != 0 || other[i] != '\x80') return false;
    ++*signs;
  }
  return one.size() == other.size();
}

TEST(SparseSource, KeepsItsPatternUnderEveryScheme) {
  const TestFolder folder;
  WriteTinyLlama({.hidden = 72, .intermediate = 172}, folder / "src");
  Prune(folder / "src");
  const char* const kSchemes[] = {
      "weight: {type: fp8, scale: channel}\n    input: {type: fp8, scale: token}",
      "weight: {type: fp8, scale: tensor}\n    input: {type: fp8, scale: token}\n    algorithm: "
      "mse",
      "weight: {type: fp8, scale: block, block: [128, 128]}\n"
      "    input: {type: fp8, scale: group, group: 128}",
      "weight: {type: int8, scale: channel}\n    input: {type: int8, scale: token}"};
  int number = 0, signs = 0;
  for (const char* scheme : kSchemes) {
    SCOPED_TRACE(scheme);
    const std::string name = std::to_string(number++);
    const auto recipe = ParseRecipe(fmt::format("name: r\nrules:\n  - {}\n", scheme), "r.yaml");
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    Made full = Prepare(folder / "src", folder / ("full" + name), *recipe, {});
    Made packed = Prepare(folder / "src", folder / ("packed" + name), Stored(*recipe), {});
    Stages stages(BestIsa());
    Finished(&full, &stages, 1);
    Finished(&packed, &stages, 2);
    ExpectTiled(packed.plan);
    EXPECT_TRUE(AlmostSame(InFull(packed, folder / ("again" + name)),
                           Weights(full.job.staging_dir()), &signs));
  }
  EXPECT_GT(signs, 0);  // of zeros of FP8 for which there was no room
}

TEST(SparseSource, AThirdWeightOfFourIsToldOfWhereItIsMet) {
  const TestFolder folder;
  WriteTinyLlama({}, folder / "src");
  Prune(folder / "src", 20);  // all but columns 12 to 15 of row 1 of one matrix
  Made made = Prepare(folder / "src", folder / "out", Stored(*Preset("fp8-dynamic")), {});
  Stages stages(BestIsa());
  const absl::Status status = Workers(&made, &stages, 1).Run(1);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupported);
  for (const char* part : {"row 1, columns 12 to 15", "model.layers.1.mlp.up_proj.weight",
                           "model.safetensors", "Leave out storage"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

TEST(SparseSource, ColumnsThatAreNoMultipleOfFourAreToldOfAtPlan) {
  const TestFolder folder;
  WriteTinyLlama({.intermediate = 162}, folder / "src");
  const auto checkpoint = OpenCheckpoint(folder / "src");
  ASSERT_TRUE(checkpoint.ok());
  ASSERT_TRUE(BuildPlan(*checkpoint, *Preset("fp8-dynamic")).ok());
  const auto plan = BuildPlan(*checkpoint, Stored(*Preset("fp8-dynamic")));
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(ReasonOf(plan.status()), Reason::kUnsupported);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("162 columns"));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("down_proj.weight"));
}

}  // namespace
}  // namespace octavo
