// octavo: what a person types.

#include <signal.h>

#include <cstdlib>
#include <exception>
#include <string>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "fmt/format.h"

namespace {

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

octavo::UserPlaces PlacesFromEnvironment() {
  octavo::UserPlaces places;
  places.token = Variable("OCTAVO_TOKEN");
  const std::string state = Variable("XDG_STATE_HOME");
  const std::string home = Variable("HOME");
  if (!state.empty()) {
    places.state_dir = state + "/octavo";
  } else {
    places.state_dir = (home.empty() ? "/tmp" : home + "/.local/state") + "/octavo";
  }
  return places;
}

int Fail(const absl::Status& status) {
  std::fflush(stdout);
  fmt::print(stderr, "error: {}\n", std::string(status.message()));
  return octavo::ExitCodeOf(status);
}

}  // namespace

int main(int argc, char** argv) {
  // A reader that went away and a file-size limit are errors of one write, not of the process.
  // Children inherit this.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);

  octavo::Context context;
  context.places = PlacesFromEnvironment();
  CLI::App app("Octavo folds large checkpoints to eight bits and serves them.", "octavo");
  app.set_version_flag("--version", "octavo " OCTAVO_VERSION);
  app.add_option("--log-level", context.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.require_subcommand(1);
  app.fallthrough();
  octavo::AddQuantize(app, context);
  octavo::AddPlan(app, context);
  octavo::AddSensitivity(app, context);
  octavo::AddServe(app, context);
  octavo::AddGateway(app, context);
  octavo::AddChat(app, context);
  octavo::AddEval(app, context);
  octavo::AddInspect(app, context);
  octavo::AddDoctor(app, context);
  octavo::AddConvertDialect(app, context);
  octavo::AddDequantize(app, context);
  octavo::AddImport(app, context);
  octavo::AddSynth(app, context);
  octavo::AddRecipe(app, context);
  octavo::AddUp(app, context);
  octavo::AddJob(app, context);
  octavo::AddCluster(app, context);
  octavo::AddBench(app, context);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return octavo::InfoOf(octavo::Reason::kUsage).exit_code;
  }
  if (absl::Status status = octavo::InitLogging("octavo", context.log_level); !status.ok()) {
    return Fail(status);
  }
  try {
    const absl::Status status = context.action();
    if (!status.ok()) return Fail(status);
  } catch (const std::exception& error) {
    return Fail(octavo::MakeError(octavo::Reason::kInternal,
                                  fmt::format("unexpected exception: {}", error.what())));
  }
  if (std::fflush(stdout) != 0) {
    return Fail(octavo::MakeError(octavo::Reason::kIo, "cannot write to standard output"));
  }
  return 0;
}
