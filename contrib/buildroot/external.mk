include $(sort $(wildcard $(BR2_EXTERNAL_BALENA_PATH)/package/*/*.mk))
