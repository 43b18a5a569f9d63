#include <algorithm>

#include "coordinator/planner/publish.h"
#include "core/base/checksum.h"
#include "core/scheme/compat.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr size_t kWorstTensors = 5;

std::string Hex(const v1::Digest& digest) { return Digest128{digest.low(), digest.high()}.Hex(); }

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

std::string ErrorSection(const v1::Manifest& manifest) {
  if (manifest.errors_size() == 0) return "No tensor was quantized.\n";
  std::vector<const v1::TensorError*> worst;
  double sum = 0;
  uint64_t zero_groups = 0;
  for (const v1::TensorError& error : manifest.errors()) {
    worst.push_back(&error);
    sum += error.relative_error();
    zero_groups += error.zero_groups();
  }
  std::stable_sort(worst.begin(), worst.end(),
                   [](const v1::TensorError* a, const v1::TensorError* b) {
                     return a->relative_error() > b->relative_error();
                   });
  std::string out = fmt::format(
      "{} tensors were quantized. Relative error of the weights (root mean square of the error "
      "over "
      "that of the source): mean {:.5f}.\n",
      worst.size(), sum / static_cast<double>(worst.size()));
  if (zero_groups > 0) {
    out += fmt::format("{} groups of weights were all zero and got the scale 1.\n", zero_groups);
  }
  out += "\n| largest errors | relative | largest single error |\n|---|---|---|\n";
  for (size_t i = 0; i < std::min(kWorstTensors, worst.size()); ++i) {
    out += fmt::format("| {} | {:.5f} | {:.6g} |\n", worst[i]->tensor(), worst[i]->relative_error(),
                       worst[i]->max_abs_error());
  }
  return out;
}

}  // namespace

std::string ModelCard(const v1::Plan& plan, const v1::Manifest& manifest) {
  const v1::Recipe& recipe = plan.recipe();
  std::string out = fmt::format(
      "---\ntags:\n- octavo\n- {}\n---\n\n"
      "# {} weights, quantized with Octavo\n\n{}\n\n## Recipe\n\n```yaml\n{}```\n\n",
      recipe.dialect(), recipe.name(), recipe.description(), RecipeYaml(recipe));
  out += fmt::format("## Made with\n\n```\noctavo quantize SRC --recipe {} --out DST\n```\n\n",
                     RecipeFlags(recipe));
  out += "Source files, with the XXH3-128 digests of their headers:\n\n";
  for (const v1::SourceFile& source : manifest.sources()) {
    out += fmt::format("- `{}` {} bytes, {}\n", source.name(), source.size(),
                       Hex(source.header_digest()));
  }
  out += "\n## Error\n\n" + ErrorSection(manifest);
  out +=
      "\n## Files\n\nEvery file, its size and digest; octavo_manifest.json has them by range.\n\n";
  for (const v1::ManifestFile& file : manifest.files()) {
    out += fmt::format("- `{}` {} bytes, {}\n", file.name(), file.size(), Hex(file.digest()));
  }
  out += fmt::format(
      "\n## Loading\n\nThe folder is a {} checkpoint.\n\n"
      "```\noctavo serve DST\nvllm serve DST\n```\n",
      recipe.dialect());
  // transformers reads the other dialects in part only.
  if (recipe.dialect() != kCompressedTensors) return out;
  out +=
      "\n```python\nfrom transformers import AutoModelForCausalLM\n"
      "model = AutoModelForCausalLM.from_pretrained(\"DST\", dtype=\"auto\")\n```\n";
  return out;
}

}  // namespace octavo
