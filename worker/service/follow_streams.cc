#include "worker/service/follow_streams.h"

#include "core/base/error.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/channel.h"
#include "octavo/v1/service/engine.grpc.pb.h"

namespace octavo {
namespace {

struct FollowerStream {
  int rank = 0;
  std::unique_ptr<v1::Engine::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::Step, v1::StepDone>> stream;

  absl::Status Lost() const {
    return MakeError(Reason::kGroupLost, fmt::format("the stream to rank {} ended", rank));
  }
};

class FollowStreams {
 public:
  FollowStreams(const std::vector<std::string>& addresses, const std::string& token);
  ~FollowStreams();
  absl::Status Send(const v1::Step& step);
  absl::StatusOr<std::vector<v1::StepDone>> Collect(uint64_t index);
  void Abort();

 private:
  std::vector<std::unique_ptr<FollowerStream>> followers_;
};

FollowStreams::FollowStreams(const std::vector<std::string>& addresses, const std::string& token) {
  for (const std::string& address : addresses) {
    auto follower = std::make_unique<FollowerStream>();
    follower->rank = static_cast<int>(followers_.size()) + 1;
    follower->stub = v1::Engine::NewStub(MakeChannel(address, token));
    follower->context.set_wait_for_ready(false);
    follower->stream = follower->stub->Follow(&follower->context);
    followers_.push_back(std::move(follower));
  }
}

FollowStreams::~FollowStreams() {
  Abort();
  for (auto& follower : followers_) (void)follower->stream->Finish();
}

absl::Status FollowStreams::Send(const v1::Step& step) {
  for (auto& follower : followers_) {
    if (!follower->stream->Write(step)) return follower->Lost();
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::StepDone>> FollowStreams::Collect(uint64_t index) {
  std::vector<v1::StepDone> all(followers_.size());
  for (size_t i = 0; i < followers_.size(); ++i) {
    do {
      if (!followers_[i]->stream->Read(&all[i])) return followers_[i]->Lost();
    } while (all[i].index() < index && !all[i].has_failure());
  }
  return all;
}

void FollowStreams::Abort() {
  for (auto& follower : followers_) follower->context.TryCancel();
}

}  // namespace

FollowerLink MakeFollowerLink(const std::vector<std::string>& addresses, const std::string& token) {
  auto streams = std::make_shared<FollowStreams>(addresses, token);
  return {.send = [streams](const v1::Step& step) { return streams->Send(step); },
          .collect = [streams](uint64_t index) { return streams->Collect(index); },
          .abort = [streams] { streams->Abort(); }};
}

}  // namespace octavo
