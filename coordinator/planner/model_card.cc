#include <algorithm>

#include "coordinator/planner/publish.h"
#include "coordinator/report/figures.h"
#include "coordinator/report/report.h"
#include "core/scheme/compat.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr size_t kWorstInCard = 5;

// "fp8-static --compat autofp8", or a file where the recipe is no preset.
std::string RecipeFlags(v1::Recipe recipe) {
  const CompatMode& mode = CompatModeOf(recipe.compat());
  recipe.set_compat(v1::COMPAT_NONE);
  const auto preset = Preset(recipe.name());
  if (!preset.ok() || preset->SerializeAsString() != recipe.SerializeAsString()) {
    return "recipe.yaml";
  }
  return mode.name.empty() ? recipe.name()
                           : fmt::format("{} --compat {}", recipe.name(), mode.name);
}

uint32_t LongestSample(const v1::CalibrationPlan& calibration) {
  uint32_t longest = 0;
  for (const uint32_t length : calibration.sample_lengths()) longest = std::max(longest, length);
  return longest;
}

std::string Intro(const v1::Plan& plan, const Figures& figures) {
  const v1::Recipe& recipe = plan.recipe();
  const v1::ModelSpec& model = plan.model();
  std::string out = fmt::format(
      "---\ntags:\n- octavo\n- {}\n---\n\n"
      "# {} weights, quantized with Octavo\n\n{}\n\n",
      recipe.dialect(), recipe.name(), recipe.description());
  out += fmt::format("A {} model of {} layers", model.family(), model.layer_count());
  if (model.expert_count() > 0) out += fmt::format(" with {} experts each", model.expert_count());
  out += fmt::format(
      ". {} weights are quantized, {} tensors are as they were; {} bytes of tensors became a "
      "folder "
      "of {}. The source's terms go on applying.\n\n",
      figures.all.tensors, figures.kept_tensors, plan.source_bytes(), plan.output_bytes());
  return out + fmt::format("## Recipe\n\n```yaml\n{}```\n\n", RecipeYaml(recipe));
}

std::string MadeWith(const v1::Plan& plan, const v1::Manifest& manifest) {
  const v1::CalibrationPlan& calibration = plan.calibration();
  std::string out = fmt::format("## Made with\n\n```\noctavo quantize SRC --recipe {} ",
                                RecipeFlags(plan.recipe()));
  if (plan.has_calibration()) {
    out += fmt::format("--calibration DATA --samples {} --sample-length {} ",
                       calibration.sample_lengths_size(), LongestSample(calibration));
  }
  out += "--out DST\n```\n\n";
  if (plan.has_calibration()) {
    uint64_t tokens = 0;
    for (const uint32_t length : calibration.sample_lengths()) tokens += length;
    out += fmt::format(
        "DATA gave {} samples, {} tokens in all; the XXH3-128 digest of their ids (I32, one after "
        "the other) is `{}`. The same ids give the same bytes.\n\n",
        calibration.sample_lengths_size(), tokens, FigureDigest(calibration.ids()));
  }
  out += "Source files, with the XXH3-128 digests of their headers:\n\n";
  for (const v1::SourceFile& source : manifest.sources()) {
    out += fmt::format("- `{}` {} bytes, {}\n", source.name(), source.size(),
                       FigureDigest(source.header_digest()));
  }
  return out + "\n";
}

std::string ErrorSection(const Figures& figures) {
  if (figures.tensors.empty()) return "## Error\n\nNo tensor was quantized.\n\n";
  std::string out = fmt::format(
      "## Error\n\nRelative error of all quantized weights (root mean square of the error over "
      "that "
      "of the source): {:.5f}.\n",
      figures.all.RelativeError());
  if (figures.all.zero_groups > 0) {
    out += fmt::format("Groups of weights that are all zero: {}.\n", figures.all.zero_groups);
  }
  out += "\n| role | tensors | relative error | largest single error |\n|---|---|---|---|\n";
  for (const GroupFigures& group : figures.roles) {
    out += fmt::format("| {} | {} | {:.5f} | {:.6g} |\n", RoleName(group.place.role),
                       group.weights.tensors, group.weights.RelativeError(),
                       group.weights.max_abs_error);
  }
  out += "\n| largest errors | relative error | largest single error |\n|---|---|---|\n";
  for (size_t i = 0; i < std::min(kWorstInCard, figures.worst.size()); ++i) {
    const TensorFigures& tensor = *figures.worst[i];
    out += fmt::format("| {} | {:.5f} | {:.6g} |\n", tensor.name, tensor.weights.RelativeError(),
                       tensor.weights.max_abs_error);
  }
  return out + fmt::format("\nBy layer, with scales{}: [{}]({}); for programs [{}]({}).\n\n",
                           figures.experts.empty() ? "" : " and the coverage of experts",
                           kReportPageName, kReportPageName, kReportName, kReportName);
}

// What text the model would be measured on is for its users to choose: no figure is given that was
// not measured.
constexpr char kQuality[] =
    "## Quality\n\n"
    "Perplexity and divergence from the source were not measured when this folder was made. To "
    "measure them on a text of your own:\n\n"
    "```\noctavo eval compare SRC DST --text FILE\n```\n\n";

std::string Loading(const v1::Recipe& recipe) {
  if (recipe.storage() == v1::STORAGE_SPARSE_24_BITMASK) {
    return fmt::format(
        "\n## Loading\n\nThe folder is a {} checkpoint whose 2:4 weights are stored as {}: "
        "compressed-tensors reads it up to 0.14.0.1. vLLM and later versions do not; they read "
        "what "
        "this makes of it, with the weights in full:\n\n"
        "```\noctavo convert-dialect DST FULL --dialect {}\n```\n\nOctavo reads it as it is:\n\n"
        "```\noctavo serve DST\n```\n",
        recipe.dialect(), StorageName(recipe.storage()), recipe.dialect());
  }
  const char* cache = recipe.has_kv_cache() ? " --kv-cache-dtype fp8" : "";
  std::string out = fmt::format(
      "\n## Loading\n\nThe folder is a {} checkpoint{}.\n\n"
      "```\noctavo serve DST{}\nvllm serve DST{}\n```\n",
      recipe.dialect(), recipe.has_kv_cache() ? " with scales for an FP8 KV cache" : "", cache,
      cache);
  // transformers reads the other dialects in part only.
  if (recipe.dialect() != kCompressedTensors) return out;
  return out +
         "\n```python\nfrom transformers import AutoModelForCausalLM\n"
         "model = AutoModelForCausalLM.from_pretrained(\"DST\", dtype=\"auto\")\n```\n";
}

}  // namespace

std::string ModelCard(const v1::Plan& plan, const v1::Manifest& manifest, const Figures& figures) {
  std::string out =
      Intro(plan, figures) + MadeWith(plan, manifest) + ErrorSection(figures) + kQuality;
  out += "## Files\n\nEvery file, its size and digest; octavo_manifest.json has them by range.\n\n";
  for (const v1::ManifestFile& file : manifest.files()) {
    out +=
        fmt::format("- `{}` {} bytes, {}\n", file.name(), file.size(), FigureDigest(file.digest()));
  }
  return out + Loading(plan.recipe());
}

}  // namespace octavo
