// octavo job list | show | watch | cancel

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/job_client.h"
#include "cli/progress.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/jobs.grpc.pb.h"

namespace octavo {
namespace {

struct JobFlags {
  ClusterFlags cluster;
  std::string id;
  bool json = false;
};

void Print(const v1::Job& job, bool json) {
  if (json) {
    fmt::print("{}\n", JobJson(job).dump());
  } else {
    fmt::print("{}  {}  {}\n", job.id(), PlainLine(job), job.request().output_dir());
    if (job.has_failure()) fmt::print("  {}\n", job.failure().message());
  }
}

absl::Status ListJobs(const Context& context, const JobFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Remote(context, flags.cluster));
  grpc::ClientContext call;
  SetTimeout(call, std::chrono::seconds(10));
  v1::ListJobsResponse response;
  OCTAVO_RETURN_IF_ERROR(
      FromGrpc(v1::Jobs::NewStub(session->channel())->List(&call, {}, &response)));
  for (const v1::Job& job : response.jobs()) Print(job, flags.json);
  return absl::OkStatus();
}

absl::Status ShowJob(const Context& context, const JobFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Remote(context, flags.cluster));
  OCTAVO_ASSIGN_OR_RETURN(const v1::Job job, GetJob(*session, flags.id));
  Print(job, flags.json);
  return absl::OkStatus();
}

absl::Status WatchJob(const Context& context, const JobFlags& flags) {
  StopSignal stop;
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Remote(context, flags.cluster));
  ProgressDisplay display(stderr);
  OCTAVO_ASSIGN_OR_RETURN(
      const Followed followed,
      FollowJob(*session, stop, flags.id, [&](const auto& now) { display.Show(now); }));
  display.Finish();
  Print(followed.job, flags.json);
  return OutcomeOf(followed.job);
}

absl::Status Cancel(const Context& context, const JobFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Remote(context, flags.cluster));
  OCTAVO_ASSIGN_OR_RETURN(const v1::Job job, CancelJob(*session, flags.id));
  Print(job, flags.json);
  return absl::OkStatus();
}

}  // namespace

void AddJob(CLI::App& app, Context& context) {
  using Action = absl::Status (*)(const Context&, const JobFlags&);
  CLI::App* command = app.add_subcommand("job", "Jobs of a running cluster");
  command->require_subcommand(1);
  auto add = [&](const char* name, const char* text, Action action, bool takes_id) {
    auto flags = std::make_shared<JobFlags>();
    CLI::App* sub = command->add_subcommand(name, text);
    AddCoordinatorFlags(*sub, flags->cluster);
    sub->get_option("--coordinator")->required();
    if (takes_id) sub->add_option("ID", flags->id, "The job's id")->required();
    sub->add_flag("--json", flags->json, "JSON objects, one a line");
    sub->callback([&context, flags, action] {
      context.action = [&context, flags, action] { return action(context, *flags); };
    });
  };
  add("list", "All jobs", ListJobs, false);
  add("show", "One job", ShowJob, true);
  add("watch", "Follow a job to its end", WatchJob, true);
  add("cancel", "Stop a job; submitting it again resumes", Cancel, true);
}

}  // namespace octavo
