#pragma once

// What main hands to every subcommand. One file per subcommand adds its flags to the parser and
// leaves behind the action that runs when it was the one chosen.

#include <functional>
#include <string>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace octavo {

// Facts from the environment, read in main only.
struct UserPlaces {
  std::string state_dir;  // $XDG_STATE_HOME/octavo or ~/.local/state/octavo
  std::string token;      // $OCTAVO_TOKEN: for --coordinator without --token-file
};

struct Context {
  UserPlaces places;
  std::string log_level = "warn";
  std::function<absl::Status()> action;
};

void AddBench(CLI::App& app, Context& context);
void AddChat(CLI::App& app, Context& context);
void AddCluster(CLI::App& app, Context& context);
void AddConvertDialect(CLI::App& app, Context& context);
void AddDequantize(CLI::App& app, Context& context);
void AddDoctor(CLI::App& app, Context& context);
void AddEval(CLI::App& app, Context& context);
void AddGateway(CLI::App& app, Context& context);
void AddImport(CLI::App& app, Context& context);
void AddInspect(CLI::App& app, Context& context);
void AddJob(CLI::App& app, Context& context);
void AddPlan(CLI::App& app, Context& context);
void AddQuantize(CLI::App& app, Context& context);
void AddRecipe(CLI::App& app, Context& context);
void AddSensitivity(CLI::App& app, Context& context);
void AddServe(CLI::App& app, Context& context);
void AddSynth(CLI::App& app, Context& context);
void AddUp(CLI::App& app, Context& context);  // up and down

}  // namespace octavo
