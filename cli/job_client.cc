#include "cli/job_client.h"

#include <stop_token>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/jobs.grpc.pb.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kCallTimeout{10'000};
// Planning a large checkpoint reads every header before Submit answers.
constexpr milliseconds kSubmitTimeout{120'000};
constexpr milliseconds kPatience{30'000};

std::string StateName(v1::JobState state) {
  const std::string& name = v1::JobState_Name(state);
  std::string text = name.starts_with("JOB_") ? name.substr(4) : name;
  for (char& letter : text) letter = static_cast<char>(std::tolower(letter));
  return text;
}

}  // namespace

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_DONE || state == v1::JOB_FAILED || state == v1::JOB_CANCELLED;
}

absl::StatusOr<v1::Job> SubmitJob(const Session& session, const StopSignal& stop,
                                  const v1::SubmitJobRequest& request) {
  auto stub = v1::Jobs::NewStub(session.channel());
  v1::Job job;
  // Submitting twice is submitting once: the key is derived from the request. An interrupt waits
  // for the answer, which comes at once: only a known job can be cancelled.
  OCTAVO_RETURN_IF_ERROR(Retry(
      session, kPatience, [&] { return stop.requested(); },
      [&] {
        grpc::ClientContext context;
        SetTimeout(context, kSubmitTimeout);
        return FromGrpc(stub->Submit(&context, request, &job));
      }));
  return job;
}

absl::StatusOr<v1::Job> GetJob(const Session& session, const std::string& id) {
  grpc::ClientContext context;
  SetTimeout(context, kCallTimeout);
  v1::GetJobRequest request;
  request.set_id(id);
  v1::Job job;
  OCTAVO_RETURN_IF_ERROR(
      FromGrpc(v1::Jobs::NewStub(session.channel())->Get(&context, request, &job)));
  return job;
}

absl::StatusOr<v1::Job> CancelJob(const Session& session, const std::string& id) {
  grpc::ClientContext context;
  SetTimeout(context, kCallTimeout);
  v1::CancelJobRequest request;
  request.set_id(id);
  v1::Job job;
  OCTAVO_RETURN_IF_ERROR(
      FromGrpc(v1::Jobs::NewStub(session.channel())->Cancel(&context, request, &job)));
  return job;
}

absl::StatusOr<Followed> FollowJob(const Session& session, const StopSignal& stop,
                                   const std::string& id,
                                   const std::function<void(const v1::Job&)>& show) {
  auto stub = v1::Jobs::NewStub(session.channel());
  v1::WatchJobRequest request;
  request.set_id(id);
  Followed followed;
  auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (true) {
    grpc::ClientContext context;
    std::stop_callback cancel(stop.token(), [&context] { context.TryCancel(); });
    auto reader = stub->Watch(&context, request);
    v1::Job job;
    while (reader->Read(&job)) {
      deadline = std::chrono::steady_clock::now() + kPatience;
      followed.job = job;
      if (show) show(job);
    }
    const absl::Status ended = FromGrpc(reader->Finish());
    if (IsTerminal(followed.job.state())) return followed;
    if (stop.requested()) return MakeError(Reason::kCancelled, "interrupted");
    if (!ended.ok() && ReasonOf(ended) != Reason::kUnreachable) return ended;
    followed.coordinator_restarted = true;
    OCTAVO_RETURN_IF_ERROR(session.Health());
    if (std::chrono::steady_clock::now() >= deadline) {
      return ended.ok()
                 ? MakeError(Reason::kUnreachable, "the coordinator stopped telling of the job")
                 : ended;
    }
    stop.WaitFor(milliseconds(100));
  }
}

absl::Status OutcomeOf(const v1::Job& job) {
  if (job.state() == v1::JOB_DONE) return absl::OkStatus();
  if (job.state() == v1::JOB_CANCELLED)
    return MakeError(Reason::kCancelled, "the job was cancelled");
  const auto reason = ReasonFromName(job.failure().reason());
  return MakeError(reason.value_or(Reason::kInternal), job.failure().message());
}

nlohmann::ordered_json JobJson(const v1::Job& job) {
  const v1::JobProgress& progress = job.progress();
  nlohmann::ordered_json json = {{"id", job.id()},
                                 {"state", StateName(job.state())},
                                 {"source", job.request().source_dir()},
                                 {"output", job.request().output_dir()},
                                 {"recipe", job.request().recipe().name()},
                                 {"already_done", job.already_done()},
                                 {"units_total", progress.units_total()},
                                 {"units_done", progress.units_done()},
                                 {"units_reused", progress.units_reused()},
                                 {"retries", progress.retries()},
                                 {"bytes_read", progress.bytes_read()},
                                 {"bytes_written", progress.bytes_written()},
                                 {"source_bytes_total", progress.source_bytes_total()},
                                 {"elapsed_seconds", progress.elapsed_seconds()},
                                 {"read_seconds", progress.read_seconds()},
                                 {"cast_seconds", progress.cast_seconds()},
                                 {"write_seconds", progress.write_seconds()},
                                 {"workers", nlohmann::ordered_json::array()},
                                 {"report", job.report_path()}};
  for (const v1::WorkerProgress& worker : progress.workers()) {
    json["workers"].push_back({{"id", worker.worker_id()},
                               {"state", worker.state()},
                               {"units_done", worker.units_done()},
                               {"bytes_read", worker.bytes_read()},
                               {"rss_peak_bytes", worker.rss_peak_bytes()}});
  }
  if (job.has_failure()) {
    json["failure"] = {{"reason", job.failure().reason()}, {"message", job.failure().message()}};
  }
  return json;
}

}  // namespace octavo
