// A failure's way to a person: the real program before a real server that fails with every reason
// of the table.

#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "core/base/error.h"
#include "core/rpc/server.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "octavo/v1/service/jobs.grpc.pb.h"

namespace octavo {
namespace {

using ::testing::EndsWith;

// Fails for the reason that a job's id names.
class FailingJobs final : public v1::Jobs::Service {
  grpc::Status Get(grpc::ServerContext*, const v1::GetJobRequest* request, v1::Job* job) override {
    job->set_id(request->id());
    const auto reason = ReasonFromName(request->id());
    return reason ? ToGrpc(MakeError(*reason, "no luck", {.file = "a.bin"}, "Try another"))
                  : grpc::Status::OK;
  }
};

struct Ended {
  int exit_code = -1;
  std::string output;
};

Ended Octavo(const std::string& arguments) {
  const std::string command = "env HOME=/nonexistent " OCTAVO_BIN_DIR "/octavo " + arguments;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  Ended ended;
  if (pipe == nullptr) return ended;
  char buffer[4096];
  while (const size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) {
    ended.output.append(buffer, got);
  }
  const int status = pclose(pipe);
  if (WIFEXITED(status)) ended.exit_code = WEXITSTATUS(status);
  return ended;
}

TEST(ExitCodes, AreThoseOfTheTable) {
  FailingJobs jobs;
  grpc::Service* services[] = {&jobs};
  const auto server = *RpcServer::Start({}, services);
  for (const ReasonInfo& info : AllReasons()) {
    const Ended ended =
        Octavo(fmt::format("job show {} --coordinator {}", info.name, server->address()));
    EXPECT_EQ(ended.exit_code, info.exit_code) << info.name << "\n" << ended.output;
    EXPECT_THAT(ended.output, EndsWith("error: no luck: file a.bin. Try another\n")) << info.name;
  }
  EXPECT_EQ(Octavo("job show a-job --coordinator " + server->address()).exit_code, 0);
  EXPECT_EQ(Octavo("job show").exit_code, InfoOf(Reason::kUsage).exit_code);
}

}  // namespace
}  // namespace octavo
