#!/usr/bin/env bats
# What the engine works with, and how much memory it may take.

load helpers

setup_file() { file_setup; }
teardown_file() { file_teardown; }

# field TEMPLATE: what info --format says
field() { balena info --format "$1"; }

@test "info says in docker's lines what there is" {
	run_balena info
	for line in 'Containers: 0' ' Running: 0' 'Images: 0' 'Server Version: [0-9]' 'Storage Driver: (overlay|vfs)' \
		"Docker Root Dir: $ROOT" "Run Root: $RUNROOT" 'Free Space: [0-9.]+[kMGT]?B of ' 'Cgroup Version: [12]' \
		'Kernel Version: '"$(uname -r)" "Architecture: $(uname -m)" 'CPUs: [0-9]' 'Total Memory: [0-9.]+[MG]iB' 'runc version: [0-9]'; do
		grep -Eq "^$line" <<<"$output" || fail "no line '$line'"
	done
	local plain=$output
	run_balena system info
	assert_equal "$(grep -vE 'Free Space|Available' <<<"$output")" "$(grep -vE 'Free Space|Available' <<<"$plain")"
}

@test "info --format json has docker's fields with their types" {
	run_balena info --format json
	jq -e --arg root "$ROOT" '.DockerRootDir == $root and .Containers == 0 and .NCPU >= 1 and (.MemTotal > 1000000)
		and (.CgroupVersion | type) == "string" and (.DriverStatus | type) == "array" and (.Runtimes[.DefaultRuntime].path | length) > 0
		and (.SecurityOptions | index("name=seccomp,profile=builtin")) != null' <<<"$output" >/dev/null || fail "fields"
	assert_equal "$(field '{{.FreeSpace}}' | sed 's/[0-9]//g')" ""
	assert_equal "$(field '{{.MemTotal}}')" "$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) * 1024))"
}

@test "info tells root from a user" {
	if is_rootless; then
		assert_equal "$(field '{{.Rootless}}')" true
		[[ $(field '{{json .SecurityOptions}}') == *name=rootless* ]]
	else
		assert_equal "$(field '{{.Rootless}}')" false
		[[ $(field '{{json .SecurityOptions}}') != *rootless* ]]
	fi
}

@test "info counts images and containers" {
	balena pull -q "$BUSYBOX" >/dev/null
	local name
	name=$(unique)
	balena run -d --name "$name" "$BUSYBOX" sleep 1000 >/dev/null
	balena create --name "$name-2" "$BUSYBOX" true >/dev/null
	assert_equal "$(field '{{.Images}} {{.Containers}} {{.ContainersRunning}} {{.ContainersStopped}}')" "1 2 1 1"
	balena rm -f "$name" "$name-2" >/dev/null
	assert_equal "$(field '{{.Containers}}')" 0
}

@test "--memory-budget and its variable say how much memory there is" {
	run_balena --memory-budget 64m info --format '{{.MemBudget}}'
	assert_output $((64 << 20))
	BALENA_MEMORY_BUDGET=48m run_balena info --format '{{.MemBudget}}'
	assert_output $((48 << 20))
	# the flag has the last word, and more than there is is what there is
	BALENA_MEMORY_BUDGET=48m run_balena --memory-budget 32m info --format '{{.MemBudget}}'
	assert_output $((32 << 20))
	[ "$(balena --memory-budget 1000g info --format '{{.MemBudget}}')" -le "$(field '{{.MemTotal}}')" ]
	run_balena -125 --memory-budget much info
	assert_stderr "invalid size: 'much'"
	BALENA_MEMORY_BUDGET=much run_balena -125 info
	assert_stderr "BALENA_MEMORY_BUDGET: invalid size: 'much'"
	run_balena --memory-budget 32m pull -q "$BUSYBOX"
}
