#!/usr/bin/env bats
# What scripts read from version.

load helpers

setup_file() { file_setup; }
teardown_file() { file_teardown; }

@test "version has docker's shape, with the runtime and the storage" {
	run_balena version
	assert_equal "${lines[0]}" "Client:"
	assert_match ' Version: +[0-9]+\.[0-9]+-rev[0-9]+'
	assert_match ' API version: +1\.[0-9]+'
	assert_match ' Go version: +go1\.'
	assert_match ' Git commit: +[0-9a-f]{12}'
	assert_match ' OS/Arch: +linux/'
	assert_match ' Runtime: +balena-runc v1\.'
	assert_match ' Storage: +containers/storage v1\.'
}

@test "version --format takes json and docker's templates" {
	run_balena version --format json
	jq -e '.Client == .Server and .Client.GitCommit != "" and .Client.Os == "linux" and .Client.Arch != ""
		and (.Client.BuildTime | fromdate > 0) and .Client.Storage.Version != ""' <<<"$output"
	local version
	version=$(jq -r .Client.Version <<<"$output")
	run_balena version --format '{{.Server.Version}} {{.Client.ApiVersion}}'
	assert_match "^$version 1\.[0-9]+$"
	run_balena --version
	assert_match "$version, build [0-9a-f]{12}$"
}

@test "version needs no store and makes none" {
	run_balena --root "$BATS_TEST_TMPDIR/none/root" --runroot "$BATS_TEST_TMPDIR/none/run" version
	[ ! -e "$BATS_TEST_TMPDIR/none" ]
}
