#include "coordinator/router/model_table.h"

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

v1::ModelInfo Model(const std::string& id, const std::string& state, uint64_t epoch) {
  v1::ModelInfo model;
  model.set_model_id(id);
  model.set_state(state);
  model.set_group_epoch(epoch);
  return model;
}

TEST(ModelTable, AnEmptyNameMeansTheOnlyModel) {
  ModelTable table;
  EXPECT_EQ(ReasonOf(table.Find("").status()), Reason::kNotReady);
  table.Put(Model("a", "ready", 1));
  EXPECT_EQ(table.Find("")->model_id(), "a");
  table.Put(Model("b", "ready", 1));
  EXPECT_EQ(ReasonOf(table.Find("").status()), Reason::kBadRequest);
  EXPECT_EQ(table.Find("b")->model_id(), "b");
  table.Remove("a");
  EXPECT_EQ(table.Find("")->model_id(), "b");
  EXPECT_EQ(table.List().size(), 1u);
}

TEST(ModelTable, UnknownNamesListWhatThereIs) {
  ModelTable table;
  table.Put(Model("smol", "ready", 1));
  const auto found = table.Find("large");
  EXPECT_EQ(ReasonOf(found.status()), Reason::kNotFound);
  EXPECT_NE(std::string(found.status().message()).find("[smol]"), std::string::npos);
}

TEST(ModelTable, RoutesOnlyToReadyGroups) {
  ModelTable table;
  table.Put(Model("a", "loading", 1));
  EXPECT_EQ(ReasonOf(table.Route("a").status()), Reason::kNotReady);
  v1::ModelInfo failed = Model("a", "failed", 1);
  failed.mutable_failure()->set_message("no room");
  table.Put(failed);
  EXPECT_NE(std::string(table.Route("a").status().message()).find("no room"), std::string::npos);
  table.Put(Model("a", "ready", 2));
  EXPECT_EQ(table.Route("a")->group_epoch(), 2u);
}

TEST(ModelTable, ANewEpochIsAnotherGroup) {
  ModelTable table;
  table.Put(Model("a", "ready", 2));
  const v1::ModelInfo routed = *table.Route("a");
  EXPECT_TRUE(table.StillServing(routed));
  table.Put(Model("a", "reforming", 2));
  EXPECT_FALSE(table.StillServing(routed));
  table.Put(Model("a", "ready", 3));
  EXPECT_FALSE(table.StillServing(routed));
  table.Remove("a");
  EXPECT_FALSE(table.StillServing(routed));
}

TEST(ModelTable, WhatIsBesideServesWhatItHasAndNothingNew) {
  ModelTable table;
  table.Put(Model("a", "ready", 2));
  const v1::ModelInfo routed = *table.Route("a");
  table.SetBeside({Model("a", "draining", 2), Model("a", "loading", 3)});
  table.Put(Model("a", "ready", 3));
  EXPECT_EQ(table.Route("a")->group_epoch(), 3u);
  EXPECT_EQ(table.Route("")->group_epoch(), 3u);
  EXPECT_TRUE(table.StillServing(routed));
  EXPECT_EQ(table.List().size(), 3u);
  table.SetBeside({});
  EXPECT_FALSE(table.StillServing(routed));
}

}  // namespace
}  // namespace octavo
