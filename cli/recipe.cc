// octavo recipe list | show NAME

#include "core/scheme/recipe.h"

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/recipe_source.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

absl::Status ListRecipes() {
  for (const std::string_view name : PresetNames()) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::Recipe recipe, Preset(name));
    fmt::print("{:<18} {}\n", name, recipe.description());
  }
  return absl::OkStatus();
}

}  // namespace

void AddRecipe(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("recipe", "Named recipes, and recipes in files");
  command->require_subcommand(1);
  command->add_subcommand("list", "The presets")->callback([&context] {
    context.action = ListRecipes;
  });
  auto name = std::make_shared<std::string>();
  CLI::App* show = command->add_subcommand("show", "A recipe as YAML");
  show->add_option("NAME", *name, "A preset, or a YAML file to check and print")->required();
  show->callback([&context, name] {
    context.action = [name]() -> absl::Status {
      if (auto yaml = PresetYaml(*name); yaml.ok()) {
        fmt::print("{}", *yaml);
        return absl::OkStatus();
      }
      OCTAVO_ASSIGN_OR_RETURN(const v1::Recipe recipe, LoadRecipe(*name));
      fmt::print("{}", RecipeYaml(recipe));
      return absl::OkStatus();
    };
  });
}

}  // namespace octavo
